"""What every attack asks of its images, labels and targets."""

import torch
from torch import Tensor

from percep.attacks.quantisation import level_tolerance, require_levels
from percep.errors import InputError
from percep.validation.class_indices import require_classes
from percep.validation.images import require_precise_images


def check_images(images: Tensor, levels: int | None) -> Tensor:
    """Which images are finite, `(B,)` bool.

    Raises:
        InputError: images that are not float32 or float64 `(B, C, H, W)` in [0, 1], or not of so many levels to within
            a hundredth of a step, or what their dtype's rounding makes of a level.
    """
    finite = require_precise_images(images)
    if levels is None:
        return finite
    require_levels(levels, images.dtype)
    values = images if bool(finite.all()) else torch.where(finite.reshape(-1, 1, 1, 1), images, 0.0)
    scaled = values * (levels - 1)
    if bool(((scaled - scaled.round()).abs() > level_tolerance(levels, images.dtype)).any()):
        raise InputError(
            f"images must be multiples of 1/{levels - 1} (levels={levels}): round them with "
            f"percep.attacks.quantise(images, {levels}), or set levels to theirs, None for floats"
        )
    return finite


def check_logits(logits: Tensor, batch: int, labels: Tensor, targets: Tensor | None) -> None:
    """Raises InputError for logits that are not `(batch, K)`, labels or targets that are none of the K classes."""
    if logits.ndim != 2 or logits.shape[0] != batch:
        raise InputError(f"the model must return ({batch}, K) logits, got {tuple(logits.shape)}")
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None:
            require_classes(name, classes, logits)
