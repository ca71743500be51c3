"""A model's logits for attributions: checked, in eval mode, and with gradients where needed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from percep.validation.class_indices import ClassIndices, as_class_indices, require_classes
from percep.validation.images import require_eval
from percep.validation.logits import logits_of

Model = Callable[[Tensor], object]
"""Maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits, or to an output that `percep.validation.logits.logits_of`
finds them in."""


def logits_function(model: Model) -> Callable[[Tensor], Tensor]:
    """The model as a function from images to logits.

    Raises `InputError` for a model in train mode; the function raises it for outputs without logits.
    """
    require_eval(model)

    def logits(images: Tensor) -> Tensor:
        return logits_of(model(images), images)

    return logits


def check_targets(logits: Callable[[Tensor], Tensor], images: Tensor, targets: ClassIndices) -> Tensor:
    """Targets as `(B,)` int64 on the images' device.

    Args:
        logits: of a model; evaluated on the first image.
        images: `(B, C, H, W)`, at least one.
        targets: integers of any kind, one per image.

    Raises:
        InputError: another shape or type, or an index that is not a class of the model.
    """
    classes = as_class_indices("targets", targets, len(images), images.device)
    with torch.no_grad():
        require_classes("targets", classes, logits(images[:1]))
    with torch.inference_mode(False):
        return classes.clone()


@contextmanager
def with_gradients(images: Tensor) -> Iterator[Tensor]:
    """The images, detached from the caller's graph, in a context with gradients: under inference mode too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield images.clone() if images.is_inference() else images.detach()
