"""Checks of images and models, each with an error that names the remedy."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from percep.errors import InputError

# Fewer bits cannot represent the perturbations that are sought: SSIM's constants are 1e-4 and 1e-3.
_PRECISIONS = (torch.float32, torch.float64)
# The types that torch computes in; its types of 8 bits are for storage.
_FLOATS = (torch.float16, torch.bfloat16, *_PRECISIONS)
# White in files of 8, 10, 12, 14 and 16 bits.
_WHITES = (255, 1023, 4095, 16383, 65535)
# Of images with channels last: how many channels files have, and the least height and width that is told from channels.
_CHANNELS, _LEAST_SIDE = (1, 3, 4), 11
# How far values may leave [0, 1] for rounding to be a likely reason.
_ROUNDING = 0.01


def require_images(images: Tensor, name: str = "images") -> Tensor:
    """Which of a batch of images are finite, `(B,)` bool; their finite values are known to lie in [0, 1] afterwards.

    Costs one pass over images that are all finite. An empty batch is one of images.

    Args:
        images: `(B, C, H, W)`, floating point in [0, 1]. NaN and infinity affect their own image alone.
        name: of the argument, for the error.

    Raises:
        InputError: no tensor, another number of axes, no pixel, integers, or finite values outside [0, 1]; channels
            last, for which a last axis of 1, 3 or 4 is taken behind two of 11 or more. What is smaller may be narrow
            images of many channels.
    """
    _require_layout(images, name)
    finite, lowest, highest = _range(images.detach())
    if lowest < 0 or highest > 1:
        raise InputError(
            f"{name} must lie in [0, 1], got values in [{lowest:.4g}, {highest:.4g}]: {_remedy(name, lowest, highest)}"
        )
    return finite


def require_precise_images(images: Tensor, name: str = "images") -> Tensor:
    """As `require_images`, for what computes in the images' own dtype: raises InputError for one of 16 bits, too."""
    _require_layout(images, name)
    if images.dtype not in _PRECISIONS:
        raise InputError(
            f"{name} must be float32 or float64, got {images.dtype}: give {name}.float(), "
            "and let torch.autocast choose the precision of the model alone"
        )
    return require_images(images, name)


def require_perturbed(images: Tensor, reference: Tensor, name: str = "images") -> Tensor:
    """Which of a batch of perturbed images are finite, `(B,)` bool, for what decides whether they lie in [0, 1].

    A reference in [0, 1] and a difference of two images lead to values in [-1, 2]. What lies beyond is no image that
    misses the range, but one on another scale, and is refused.

    Args:
        images: floating point, of the reference's shape `(B, C, H, W)`.
        reference: known to be images.
        name: of the argument, for the error.

    Raises:
        InputError: as `require_images`, with [-1, 2] for its range; another shape than the reference's.
    """
    _require_layout(images, name)
    if images.shape != reference.shape:
        shapes = f"{tuple(reference.shape)} and {tuple(images.shape)}"
        raise InputError(f"reference and {name} must both be (B, C, H, W) of one shape, got {shapes}")
    finite, lowest, highest = _range(images.detach())
    if lowest < -1 or highest > 2:
        raise InputError(
            f"{name} must be images on a scale of [0, 1], got values in [{lowest:.4g}, {highest:.4g}]: "
            f"{_remedy(name, lowest, highest)}"
        )
    return finite


def require_eval(model: Callable[..., Any]) -> None:
    """Raises InputError for a model of which any module is in train mode, however deep inside.

    A bound method of a module counts as that module; what other callables hold is not known.
    """
    owner = getattr(model, "__self__", model)
    if not isinstance(owner, nn.Module):
        return
    for path, module in owner.named_modules():
        if module.training:
            place = f"its {type(module).__name__} {path!r}" if path else "the model"
            raise InputError(f"{place} is in train mode, where outputs vary: call model.eval() first")


def _require_layout(images: Tensor, name: str) -> None:
    if not isinstance(images, Tensor):
        raise InputError(f"{name} must be a torch.Tensor, got {type(images).__name__}: give torch.as_tensor({name})")
    shape, dtype = tuple(images.shape), images.dtype
    if len(shape) != 4:
        remedy = f": give {name}[None]" if len(shape) == 3 else ""
        raise InputError(f"{name} must be floating-point (B, C, H, W), got {dtype} {shape}{remedy}")
    if shape[3] in _CHANNELS and min(shape[1:3]) >= _LEAST_SIDE:
        raise InputError(
            f"{name} must be (B, C, H, W), got {shape} with channels last: give {name}.permute(0, 3, 1, 2)"
        )
    if 0 in shape[1:]:
        raise InputError(f"{name} must hold at least one pixel and channel, got {shape}")
    if not dtype.is_floating_point:
        remedy = (
            f"give {name}.float() / 255" if dtype == torch.uint8 else f"divide {name}.float() by the level of white"
        )
        raise InputError(f"{name} must be floating-point (B, C, H, W) in [0, 1], got {dtype}: {remedy}")
    if dtype not in _FLOATS:
        raise InputError(f"{name} must be of a type that torch computes in, got {dtype}: give {name}.float()")
    if images.is_meta:
        raise InputError(f"{name} must hold values, got a tensor on the meta device")


def _range(images: Tensor) -> tuple[Tensor, float, float]:
    """Which images are finite, and the least and greatest of their finite values; 0 and 0 where there is none."""
    if not images.numel():
        return torch.ones(len(images), dtype=torch.bool, device=images.device), 0.0, 0.0
    lowest, highest = torch.stack(images.aminmax()).tolist()
    if torch.isfinite(torch.tensor([lowest, highest])).all():
        return torch.ones(len(images), dtype=torch.bool, device=images.device), lowest, highest
    known = torch.isfinite(images)
    values = images[known]
    lowest, highest = torch.stack(values.aminmax()).tolist() if values.numel() else (0.0, 0.0)
    return known.flatten(1).all(1), lowest, highest


def _remedy(name: str, lowest: float, highest: float) -> str:
    """What to do with values in such a range: where its reason is a guess, under which condition."""
    if max(-lowest, highest - 1) <= _ROUNDING:
        return f"give {name}.clamp(0, 1) if that is rounding"
    if -1 <= lowest < -0.5 and highest <= 1:
        return f"give ({name} + 1) / 2 if black is -1 and white 1"
    if lowest < 0:
        return f"undo what was subtracted and divided by, {name} * std + mean after a normalisation"
    white = next((level for level in _WHITES if 2 < highest <= level), None)
    return f"divide {name} by {'the level of white' if white is None else f'{white} if that is white'}"
