"""What every attack asks of its images, labels and targets."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from percep.attacks.lattice import level_tolerance, require_levels
from percep.errors import InputError
from percep.validation import require_images

Classes = Tensor | np.ndarray | Sequence[int] | int
"""Class indices, one for each image: a tensor, an array or a list of integers, or one integer for a single image."""

_PRECISIONS = (torch.float32, torch.float64)


def check_images(images: Tensor, levels: int | None) -> Tensor:
    """Which images are finite, `(B,)` bool.

    Raises:
        InputError: images that are not float32 or float64 `(B, C, H, W)` in [0, 1], or not of so many levels to within
            a hundredth of a step, or what their dtype's rounding makes of a level.
    """
    finite = require_images(images)
    if images.dtype not in _PRECISIONS:
        raise InputError(
            f"images must be float32 or float64, got {images.dtype}: give images.float(), "
            "and let torch.autocast choose the precision of the model alone"
        )
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


def class_indices(name: str, classes: Classes, batch: int, device: torch.device) -> Tensor:
    """`(batch,)` int64 class indices on a device, from whatever integers hold them.

    Raises:
        InputError: anything but one integer per image: floats, booleans, one-hot rows, another number of them.
    """
    wanted = f"{name} must be integers of shape ({batch},), one class index per image"
    if isinstance(classes, int | np.integer) and not isinstance(classes, bool):
        classes = [int(classes)]
    if not isinstance(classes, Tensor):
        try:
            array = np.asarray(classes)
        except ValueError as error:  # lists of different lengths
            raise InputError(f"{wanted}, got a ragged {type(classes).__name__}") from error
        if array.dtype.kind not in "iu" and array.shape != (0,):
            remedy = ": give logits.argmax(1), or labels.astype(int)" if array.dtype.kind == "f" else ""
            raise InputError(f"{wanted}, got a {type(classes).__name__} of {array.dtype} {array.shape}{remedy}")
        classes = torch.from_numpy(array.astype(np.int64))
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise InputError(f"{wanted}, got {classes.dtype} {tuple(classes.shape)}: give {name}.long()")
    if classes.shape != (batch,):
        remedy = f": give {name}.argmax(1) of one-hot rows" if classes.ndim == 2 and len(classes) == batch else ""
        raise InputError(f"{wanted}, got {classes.dtype} {tuple(classes.shape)}{remedy}")
    return classes.to(device, torch.int64)


def check_logits(logits: Tensor, batch: int, labels: Tensor, targets: Tensor | None) -> None:
    """Raises InputError for logits that are not `(batch, K)`, labels or targets that are none of the K classes."""
    if logits.ndim != 2 or logits.shape[0] != batch:
        raise InputError(f"the model must answer ({batch}, K) logits, got {tuple(logits.shape)}")
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None and bool(((classes < 0) | (classes >= logits.shape[1])).any()):
            raise InputError(f"{name} must be class indices in [0, {logits.shape[1] - 1}]")
