"""Levels of SSIM, one for a batch, for each image or for each window, as tensors of four dimensions."""

import torch
from torch import Tensor

from percep.errors import InputError
from percep.validation.scalars import shown

Level = float | Tensor


def checked_level(
    value: Level | None, name: str, shape: tuple[int, int, int, int], device: torch.device
) -> Tensor | None:
    """A level as a float64 tensor that broadcasts to `shape`; None stays None.

    Raises:
        InputError: a level that is not a number or a tensor, lies outside (0, 1) or does not broadcast.
    """
    if value is None:
        return None
    try:
        level = torch.as_tensor(value, dtype=torch.float64, device=device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must lie in (0, 1), got {shown(value)}") from error
    if not bool(((level > 0) & (level < 1)).all()):
        raise InputError(f"{name} must lie in (0, 1), got {value if level.ndim == 0 else 'a tensor outside it'}")
    level = four_dimensional(level)
    try:
        level.expand(shape)
    except RuntimeError:
        raise InputError(f"{name} of shape {tuple(level.shape)} does not broadcast to {shape}") from None
    return level


def four_dimensional(level: Tensor) -> Tensor:
    """A number or one per image as `(B or 1, 1, 1, 1)`; maps as `(B or 1, C or 1, h or 1, w or 1)`."""
    if level.ndim <= 1:
        return level.reshape(-1, 1, 1, 1)
    return level.reshape((1,) * (4 - level.ndim) + tuple(level.shape))
