"""What a network of one's own raises while it is attacked, in one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb

import torch
from torch import Tensor

from percep.data.photographs import Photograph
from percep.errors import InputError, PercepError, one_line
from percep.models import Classifier

_GRADIENTS = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}


@contextmanager
def network_failures(model: Classifier, photographs: Sequence[Photograph] = ()) -> Iterator[None]:
    """Tells failures of a network, of its answer or of its gradient, from all others, which pass.

    Args:
        model: that is asked within.
        photographs: those it is asked about together, where batch_size=1 would ask one by one.

    Raises:
        InputError: the network fails.
    """
    try:
        yield
    except (PercepError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        what = None if str(error).startswith("DataLoader worker") else _failure(error)
        if what is None:
            raise
        images = [photograph.image for photograph in photographs if photograph.image is not None]
        hint = ""
        in_a_batch = what.endswith("images") or (len(images) > 1 and not what.endswith("image"))
        if images and in_a_batch and _works(model, images[0]):
            remedy = "batch_size=1 gives it one at a time" if len(images) > 1 else "and this task needs batches of it"
            hint = f": on one image it works, {remedy}"
        raise InputError(f"{what} ({type(error).__name__}: {one_line(error)}){hint}") from error


def _failure(error: BaseException) -> str | None:
    """What has failed, as the innermost of the frames says that are of a network or a gradient; None for neither."""
    found = None
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code is Classifier.forward.__code__:
            size = len(frame.f_locals["images"])
            found = "the network fails on " + ("an image" if size == 1 else f"a batch of {size} images")
        elif frame.f_code in _GRADIENTS:
            found = "the network's gradient fails"
        elif str(frame.f_globals.get("__name__")).partition(".")[0] == "percep":  # a fault that would be percep's
            found = None
    return found


def _works(model: Classifier, image: Tensor) -> bool:
    """Whether the network answers one image, with a gradient."""
    alone = image[None].to(model.mean.device).requires_grad_()
    try:
        with torch.enable_grad():
            torch.autograd.grad(model(alone).sum(), alone)
    except (Exception, SystemExit):
        return False
    return True
