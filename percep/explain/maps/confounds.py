"""Confounds of perturbation and attribution maps, whatever the model: texture, edges, distance from the centre."""

import kornia.filters
import torch
from torch import Tensor

from percep.errors import InputError
from percep.ssim import variance
from percep.validation.images import require_images
from percep.windows import Window


def local_standard_deviation(images: Tensor) -> Tensor:
    """Texture: the standard deviation in SSIM's window (11 taps, sigma 1.5), averaged over channels.

    `(B, C, H, W)` floating-point images in `[0, 1]` to `(B, H, W)` float64 in `[0, 1/2]`. Raises `InputError` for
    anything else and for sides of less than 6 pixels.
    """
    require_images(images)
    return variance(Window.gaussian(), images.double()).sqrt().mean(1)


def edge_strength(images: Tensor) -> Tensor:
    """Gradient magnitude at the scale of SSIM's window, averaged over channels.

    The image is averaged in the window (11 taps, sigma 1.5) and differentiated by kornia's normalised Sobel filter, per
    pixel. `local_standard_deviation` is also large in clutter, this only where brightness changes in one direction.

    Args:
        images: `(B, C, H, W)`, floating point in `[0, 1]`, sides of at least 6 pixels.

    Returns:
        `(B, H, W)` float64, at least 0: the slope of a ramp, and 0.24 along a step from 0 to 1.

    Raises:
        InputError: tensors that are not images, or sides that are too short.
    """
    require_images(images)
    gradients = kornia.filters.spatial_gradient(Window.gaussian().mean(images.double()), mode="sobel")
    return gradients.square().sum(2).sqrt().mean(1)


def distance_from_centre(height: int, width: int) -> Tensor:
    """`(H, W)` float64: distance of each pixel's centre from the image's, over half the diagonal, in `[0, 1)`."""
    rows, columns = _offsets(height, width)
    return torch.sqrt(rows[:, None] ** 2 + columns[None] ** 2) / (0.5 * (height**2 + width**2) ** 0.5)


def centred_gaussian(height: int, width: int, sigma: float = 0.25) -> Tensor:
    """`(H, W)` float64 in `(0, 1]`: the map of a centre bias.

    Args:
        height, width: in pixels.
        sigma: standard deviation along each axis, as a share of that side.

    Raises:
        InputError: a sigma that is not positive.
    """
    if not sigma > 0:
        raise InputError(f"sigma must be positive, got {sigma}")
    rows, columns = _offsets(height, width)
    return torch.exp(-((rows[:, None] / (sigma * height)) ** 2 + (columns[None] / (sigma * width)) ** 2) / 2)


def confound_maps(images: Tensor) -> dict[str, Tensor]:
    """The confounds of `partial_spearman`, by name: `(B, H, W)` float64 each, on the images' device.

    `local_standard_deviation`, `edge_strength` and `distance_from_centre` of `(B, C, H, W)` floating-point images in
    `[0, 1]`. Raises `InputError` for anything else and for sides of less than 6 pixels.
    """
    require_images(images)
    height, width = int(images.shape[-2]), int(images.shape[-1])
    distance = distance_from_centre(height, width).to(images.device)
    return {
        "local_standard_deviation": local_standard_deviation(images),
        "edge_strength": edge_strength(images),
        "distance_from_centre": distance.expand(len(images), height, width),
    }


def _offsets(height: int, width: int) -> tuple[Tensor, Tensor]:
    rows = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return rows, columns
