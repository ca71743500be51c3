"""torch.autocast and us: percep computes in the dtype it was given, and the user's model runs as the caller asked.

Autocast runs matrix products and convolutions in bfloat16 or float16, whose errors are those of the perturbations
sought. All else it leaves in float32 and float64 as they are, so it is switched off around our products and nowhere
else: a model that is called by an attack or an explanation sees the caller's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def product(first: Tensor, second: Tensor) -> Tensor:
    """`first @ second` in their dtype."""
    with without_autocast(first.device):
        return first @ second


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Inside, a device's autocast is off."""
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    torch.set_autocast_enabled(device.type, False)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device.type, True)
