"""The SSIM map, by kornia: an implementation independent of the solvers'."""

import kornia.metrics
from torch import Tensor

from percep.errors import InputError
from percep.validation.images import require_images


def ssim_maps(reference: Tensor, images: Tensor) -> Tensor:
    """SSIM per pixel and channel (Wang et al., IEEE TIP 2004): 11-tap Gaussian window, sigma 1.5, range 1.

    Args:
        reference: `(B, C, H, W)`, floating point in `[0, 1]`, sides of at least 6 pixels.
        images: the same shape, likewise.

    Returns:
        `(B, C, H, W)` float64 in `[-1, 1]`, 1 where the images agree; borders by reflection. Computed by
        `kornia.metrics.ssim` with eps = 0, as any other value biases black patches.

    Raises:
        InputError: integers, values outside `[0, 1]`, shapes that differ, or sides too short for the window.
    """
    require_images(reference, "reference")
    require_images(images)
    if reference.shape != images.shape:
        shapes = f"{tuple(reference.shape)} and {tuple(images.shape)}"
        raise InputError(f"SSIM compares images of one shape (B, C, H, W), got {shapes}")
    if min(reference.shape[-2:]) < 6:
        height, width = reference.shape[-2:]
        raise InputError(f"SSIM's 11-tap window needs sides of at least 6 pixels, got {height}x{width}")
    return kornia.metrics.ssim(reference.double(), images.double(), 11, max_val=1.0, eps=0.0, padding="same")
