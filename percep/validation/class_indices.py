"""Checks of class indices: labels and targets."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from percep.errors import InputError

ClassIndices = Tensor | np.ndarray | Sequence[int] | int
"""Class indices, one for each image: a tensor, an array or a list of integers, or one integer for a single image."""


def as_class_indices(name: str, classes: ClassIndices, batch: int, device: torch.device) -> Tensor:
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


def require_classes(name: str, classes: Tensor, logits: Tensor) -> None:
    """Raises InputError for class indices that are none of the K classes of `(B, K)` logits."""
    if bool(((classes < 0) | (classes >= logits.shape[1])).any()):
        raise InputError(f"{name} must be class indices in [0, {logits.shape[1] - 1}]")
