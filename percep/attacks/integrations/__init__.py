"""percep's attacks as attacks of other libraries: one module a library, imported only where it is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from percep.errors import BASELINES_REMEDY, UnavailableError


def unavailable(error: ImportError) -> UnavailableError:
    """What to raise where a module's library cannot be imported."""
    return UnavailableError(f"{error}: {BASELINES_REMEDY}")


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Gives every module its own mode back, train or eval, whatever a library sets the outermost one to."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
