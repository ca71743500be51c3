"""torch.autocast: percep computes in the dtype of its inputs, the user's model under the caller's autocast.

Autocast would run products in bfloat16 or float16, whose rounding errors are as large as the perturbations sought.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Of all device types that torch 2 has an autocast for, those of the installed version.
_DEVICE_TYPES = tuple(
    device
    for device in ("cpu", "cuda", "mps", "xpu", "hpu", "xla", "mtia", "maia", "ipu", "privateuseone")
    if torch.amp.is_autocast_available(device)
)


def product(first: Tensor, second: Tensor) -> Tensor:
    """`first @ second` in their dtype, autocast or not; for every matrix product of percep."""
    if not torch.is_autocast_enabled(first.device.type):
        return first @ second
    with without_autocast():
        return first @ second


@contextmanager
def without_autocast() -> Iterator[None]:
    """A context, and a decorator `@without_autocast()`, in which no device's autocast is on."""
    active = _active()
    for device in active:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in active:
            torch.set_autocast_enabled(device, True)


def under_current_autocast(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`function` under the present autocast whenever it is called: for the user's model inside percep's computation.

    Casts of weights are not cached: autocast would reuse them in later passes of the caller's, where the weights may
    have changed, and casts made without a graph give the weights no gradient (in torch 2.4). Without autocast, it is
    `function` itself.
    """
    dtypes = {device: torch.get_autocast_dtype(device) for device in _active()}
    return _under(dtypes, function) if dtypes else function


def _under(dtypes: dict[str, torch.dtype], function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    def call(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        before = {device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in dtypes}
        cached = torch.is_autocast_cache_enabled()
        try:
            torch.set_autocast_cache_enabled(False)
            for device, dtype in dtypes.items():
                torch.set_autocast_enabled(device, True)
                torch.set_autocast_dtype(device, dtype)
            return function(*arguments, **options)
        finally:
            torch.set_autocast_cache_enabled(cached)
            for device, (enabled, dtype) in before.items():
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, dtype)

    return call


def _active() -> list[str]:
    return [device for device in _DEVICE_TYPES if torch.is_autocast_enabled(device)]
