"""How explanations ask a model: for logits, in eval mode, with gradients where needed, and leaving it as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from percep.validation.class_indices import ClassIndices, as_class_indices, require_classes
from percep.validation.images import require_eval
from percep.validation.logits import logits_of

Model = Callable[[Tensor], object]
"""Maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits, or to what holds them for
`percep.validation.logits.logits_of`."""


def logits_function(model: Model) -> Callable[[Tensor], Tensor]:
    """The logits of a model; raises `InputError` for one in train mode, and for answers that hold no logits."""
    require_eval(model)

    def logits(images: Tensor) -> Tensor:
        return logits_of(model(images), images)

    return logits


def check_targets(logits: Callable[[Tensor], Tensor], images: Tensor, targets: ClassIndices) -> Tensor:
    """Targets as `(B,)` int64 on the images' device.

    Args:
        logits: of a model, asked with the first image.
        images: `(B, C, H, W)`, at least one.
        targets: integers of any kind, one per image.

    Raises:
        InputError: another shape or type, or no class of the model's.
    """
    classes = as_class_indices("targets", targets, len(images), images.device)
    with torch.no_grad():
        require_classes("targets", classes, logits(images[:1]))
    with torch.inference_mode(False):
        return classes.clone()


@contextmanager
def with_gradients(images: Tensor) -> Iterator[Tensor]:
    """The images, apart from the caller's tensor and graph, where gradients pass: under inference mode too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield images.clone() if images.is_inference() else images.detach()
