"""Maps of where the perceptual budget of an adversarial image was spent."""

import torch
from torch import Tensor
from torch.nn import functional


def allocation_maps(spending: Tensor, size: tuple[int, int]) -> Tensor:
    """Spending per pixel, in multiples of the map's mean.

    Args:
        spending: `(B, C, h, w)`, at least 0: what each window spent, as in `AttackResult.spending`.
            Channels add up.
        size: `(H, W)` of the image, in pixels; maps of strided windows are resampled to it bilinearly.

    Returns:
        `(B, H, W)` float64 with mean 1 per image; 0 everywhere for an image that spent nothing.
    """
    maps = over_channels(spending.double(), size)
    share = maps.mean((1, 2), keepdim=True)
    return torch.where(share > 0, maps / share, 0.0)


def over_channels(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows' values `(B, C, h, w)` summed over channels, `(B, *size)`; resampled bilinearly for a stride above 1."""
    maps = values.sum(1, keepdim=True)
    if maps.shape[-2:] != size:
        maps = functional.interpolate(maps, size, mode="bilinear")
    return maps[:, 0]
