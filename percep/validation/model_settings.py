"""What may be said of a model, checked without building it: for `percep.models.load` and for `model.` keys alike."""

from collections.abc import Mapping, Sequence
from typing import get_args

from percep.choices import Interpolation, Source
from percep.errors import InputError

# What float32 holds in full precision, in which images are normalised.
_LEAST, _MOST = 2.0**-126, 2.0**127


def check_model_settings(
    source: str,
    *,
    network: Mapping[str, object] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    resize: int | None,
    crop: int | None,
    interpolation: str | None,
    first_class: int | None,
    prefix: str = "",
) -> None:
    """Refuses settings that cannot hold together; their meaning is that of `percep.models.load`.

    Args:
        source: where the network comes from.
        network: the call that builds it.
        mean: per channel.
        std: per channel.
        resize: in pixels.
        crop: in pixels.
        interpolation: the name of a filter.
        first_class: index of the first class.
        prefix: of the settings' names in messages.

    Raises:
        InputError: names the setting and what to change.
    """
    if source not in get_args(Source):
        raise InputError(f"unknown model source {source!r}: choose {', '.join(get_args(Source))}")
    _check_network(source, network, prefix)
    if source == "custom" and crop is None:
        raise InputError(f"{prefix}crop is missing: the side of the network's input in pixels, {prefix}crop=224")
    _check_normalisation(mean, std, prefix)
    for name, value, least in (("resize", resize, 1), ("crop", crop, 1), ("first_class", first_class, 0)):
        if value is not None and value < least:
            raise InputError(f"{prefix}{name} must be at least {least}, got {value}")
    if resize is not None and crop is not None and resize < crop:
        raise InputError(f"{prefix}resize must be at least {prefix}crop, got {resize} and {crop}")
    if interpolation is not None and interpolation not in get_args(Interpolation):
        known = ", ".join(get_args(Interpolation))
        raise InputError(f"{prefix}interpolation must be one of {known}, got {interpolation!r}")


def _check_network(source: str, network: Mapping[str, object] | None, prefix: str) -> None:
    form = f"{prefix}network={{_target_: my_package.build, width: 1.0}}"
    if network is not None and source != "custom":
        raise InputError(f"{prefix}network belongs to the source custom, and this one is {source}")
    if network is None and source == "custom":
        raise InputError(f"{prefix}network is missing: a callable by import path with its arguments, '{form}'")
    if network is None:
        return
    if not isinstance(network, Mapping) or not isinstance(network.get("_target_"), str) or not network["_target_"]:
        raise InputError(
            f"{prefix}network must be a callable by import path with its arguments, '{form}': "
            "a module that is built already belongs in percep.models.Classifier"
        )


def _check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None, prefix: str) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, 3):
            raise InputError(
                f"{prefix}{name} needs one value per channel, [0] for grey images and [0, 0, 0] for colour, "
                f"got {len(values)}"
            )
    if mean is not None and std is not None and len(mean) != len(std):
        raise InputError(
            f"{prefix}mean and {prefix}std need one value per channel, got {len(mean)} and {len(std)}: "
            f"for grey images {prefix}mean=[0] {prefix}std=[1]"
        )
    if mean is not None and not all(-_MOST < value < _MOST for value in mean):
        raise InputError(f"{prefix}mean must be finite, got {list(mean)}")
    if std is not None and not all(_LEAST <= value < _MOST for value in std):
        raise InputError(f"{prefix}std must be above 0 and finite, got {list(std)}")
