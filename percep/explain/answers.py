"""How explanations ask a model: for logits, in eval mode, with gradients where needed, and leaving it as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from percep.errors import InputError
from percep.outputs import logits_of
from percep.validation import require_eval

Model = Callable[[Tensor], object]
"""Maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits, or to what `percep.outputs.logits_of` finds them in."""


def logits_from(model: Model) -> Callable[[Tensor], Tensor]:
    """The logits of a model; raises `InputError` for one in train mode, and for answers that hold no logits."""
    require_eval(model)

    def logits(images: Tensor) -> Tensor:
        return logits_of(model(images), images)

    return logits


def check_targets(logits: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, name: str) -> Tensor:
    """Targets as `(B,)` int64 on the images' device.

    Args:
        logits: of a model, asked with the first image.
        images: `(B, C, H, W)`, at least one.
        targets: integers of any kind, one per image.
        name: of the explanation, for the error.

    Raises:
        InputError: another shape or type, or no class of the model's.
    """
    classes = torch.as_tensor(targets)
    with torch.no_grad():
        count = int(logits(images[:1]).shape[1])
    whole = not (classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool)
    if not whole or classes.shape != images.shape[:1] or not bool(((classes >= 0) & (classes < count)).all()):
        raise InputError(
            f"{name} needs one class in 0..{count - 1} per image, {len(images)} in all, "
            f"got {classes.dtype} {tuple(classes.shape)}"
        )
    with torch.inference_mode(False):
        return classes.to(images.device, torch.int64, copy=True)


@contextmanager
def with_gradients(images: Tensor) -> Iterator[Tensor]:
    """The images, apart from the caller's tensor and graph, where gradients pass: under inference mode too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield images.clone() if images.is_inference() else images.detach()
