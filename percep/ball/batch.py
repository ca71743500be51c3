"""A batch image by image: sums, selections, and which images are finite."""

import torch
from torch import Tensor


def per_image(values: Tensor) -> Tensor:
    """Sum over everything but the batch, `(B, 1, 1, 1)`."""
    return values.flatten(1).sum(1).reshape(-1, 1, 1, 1)


def of_images(values: Tensor, images: Tensor) -> Tensor:
    """The values of some of the images; unchanged if all images share one value."""
    return values[images] if values.shape[0] > 1 else values


def finite_images(values: Tensor) -> tuple[Tensor, Tensor]:
    """The values `(B, C, H, W)`, 0 in images that are not finite, and which images are, `(B,)` bool."""
    finite = torch.isfinite(values).flatten(1).all(1)
    return torch.where(finite[:, None, None, None], values, 0.0), finite
