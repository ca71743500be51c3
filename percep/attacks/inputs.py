"""What every attack asks of its model, labels and targets."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from percep.errors import InputError


def check_model(model: Callable[[Tensor], Tensor]) -> None:
    """Raises InputError for a module in train mode."""
    if isinstance(model, nn.Module) and model.training:
        raise InputError("the model is in train mode, where its answers change: call model.eval() first")


def check_images(images: Tensor, eight_bit: bool) -> Tensor:
    """Which images are finite, `(B,)` bool.

    Raises:
        InputError: images that are not floating point `(B, C, H, W)` in [0, 1], or with `eight_bit` not multiples
            of 1/255 to within 1e-2 of a level.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(f"images must be floating-point (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    finite = torch.isfinite(images).flatten(1).all(1)
    values = torch.where(finite.reshape(-1, 1, 1, 1), images.detach(), 0.0)
    if values.numel():
        least, most = values.aminmax()
        if least < 0 or most > 1:
            raise InputError(f"images must lie in [0, 1], got values in [{least:.4g}, {most:.4g}]")
    if eight_bit and bool(((values * 255 - (values * 255).round()).abs() > 1e-2).any()):
        raise InputError("images must be multiples of 1/255 (8-bit): round them with percep.attacks.quantise")
    return finite


def check_classes(batch: int, labels: Tensor, targets: Tensor | None) -> None:
    """Raises InputError for labels or targets that are not int64 of shape `(batch,)`."""
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None and (classes.shape != (batch,) or classes.dtype != torch.int64):
            raise InputError(f"{name} must be int64 of shape ({batch},), got {classes.dtype} {tuple(classes.shape)}")


def check_logits(logits: Tensor, batch: int, labels: Tensor, targets: Tensor | None) -> None:
    """Raises InputError for logits that are not `(batch, K)`, labels or targets that are none of the K classes."""
    if logits.ndim != 2 or logits.shape[0] != batch:
        raise InputError(f"the model must answer ({batch}, K) logits, got {tuple(logits.shape)}")
    for name, classes in (("labels", labels), ("targets", targets)):
        if classes is not None and bool(((classes < 0) | (classes >= logits.shape[1])).any()):
            raise InputError(f"{name} must be class indices in [0, {logits.shape[1] - 1}]")
