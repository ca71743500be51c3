"""Launchers of the Numba kernels, on float32 tensors of any strides; `percep.windows` and the solvers define them.

As many threads as torch uses share the rows in equal parts. Results do not depend on how many: every row has its own
partial sum, and these are added in a fixed order.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

from percep.errors import InputError
from percep.kernels import CHOICE, PROCESS
from percep.kernels.arguments import Floor, Updated, laid, room
from percep.kernels.cpu import plans, strided, symmetric
from percep.kernels.cpu import update as multipliers
from percep.kernels.cpu.simd import LANES
from percep.kernels.geometry import Geometry

_PIXELS_A_THREAD = 2**15  # as in torch


def mean(values: Tensor, window: Geometry, taps: tuple[float, ...]) -> Tensor:
    """`A v` with the taps given, `(..., H, W)` to `(..., h, w)`."""
    height, width = _sides(values)
    result = values.new_empty(*values.shape[:-2], *window.grid(height, width))
    of_window = (window, taps, height, width)
    if fuses(values, window):
        _run(symmetric.mean, values, _laid(values), result, plans.both(*of_window))
    else:
        across, down = plans.across(window, taps, width), plans.down(*of_window)
        _run(strided.mean, values, *_flat(values, result), height, down, across)
    return result


def adjoint(maps: Tensor, window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Tensor:
    """`A' u` with the taps given, `(..., h, w)` to `(..., height, width)`."""
    result = maps.new_empty(*maps.shape[:-2], height, width)
    of_window = (window, taps, height, width)
    if fuses(result, window):
        _run(symmetric.adjoint, result, _laid(maps), result, plans.both(*of_window))
    else:
        across, back = plans.across(window, taps, width), plans.back(*of_window)
        _run(strided.adjoint, result, *_flat(maps, result), maps.shape[-2], back, across)
    return result


def product(
    values: Tensor, diagonal: Tensor, inner: Tensor, window: Geometry, active: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`M v = diagonal v + A' (inner A v)`, `(B, C, H, W)`, and `<v, M v>`, `(B, 1, 1, 1)`.

    Args:
        values: v.
        diagonal, inner: broadcasting to `(B, C, H, W)`.
        window: of A, that `fuses`.
        active: `(B,)`; of an image that is not, nothing is read, and both are 0. None is all.
    """
    height, width = _sides(values)
    window.grid(height, width)
    chosen = None if active is None or bool(active.all()) else torch.nonzero(active.flatten()).flatten()
    shape = values.shape
    given = [each if each.shape == shape else each.expand(shape) for each in (values, diagonal, inner)]
    given = [_laid(each if chosen is None else each[chosen]) for each in given]
    result, curvature = room(given[0]), values.new_zeros(len(given[0]), 1, 1, 1)
    both = plans.both(window, window.taps, height, width)
    _run(symmetric.product, given[0], *given, result, curvature, values.shape[1], both)
    if chosen is not None:
        result = room(values).zero_().index_copy_(0, chosen, result)
        curvature = values.new_zeros(len(values), 1, 1, 1).index_copy_(0, chosen, curvature)
    return result, curvature


def update(
    delta: Tensor,
    reference: Tensor,
    moments: tuple[Tensor, Tensor],
    floor: Floor | None,
    weights: tuple[Tensor, Tensor] | None,
    paces: tuple[Tensor, Tensor],
    window: Geometry,
) -> Updated:
    """One step of the floor's multipliers, and the ellipsoid's norm; what is not asked for is not written.

    Args:
        delta, reference: `(B, C, H, W)`.
        moments: mean and variance of the reference, `(B, C, H, W)`.
        floor: None without a floor.
        weights: the ellipsoid's, of squared means and variances, `(B, C, H, W)`; None without a mean.
        paces: eta and the momentum of each image, `(B,)`.
        window: of the local moments, that `fuses`.
    """
    height, width = _sides(delta)
    window.grid(height, width)
    of_floor, both = laid(floor, moments[0]), plans.both(window, window.taps, height, width)
    spent = delta.new_zeros(len(delta), 1, 1, 1)
    images = [_laid(each) for each in (delta, reference, *moments)]
    others = [_laid(each) for each in (*(weights or moments), *paces)]
    _run(
        multipliers.update, delta, *images, *of_floor.k, *of_floor.strides, *of_floor.radii, *of_floor.multipliers,
        *of_floor.last, *others, *of_floor.raised, *of_floor.steps, spent, delta.shape[1], floor is not None,
        weights is not None, 0.0 if floor is None else floor.least, both,
    )  # fmt: skip
    return Updated(of_floor.raised, of_floor.steps, spent)


def fuses(values: Tensor, window: Geometry) -> bool:
    """Whether images `values`, `(..., H, W)`, are for the kernels of `symmetric`, and so for `product` and `update`."""
    return window.is_own_adjoint and window.size < 2 * symmetric.EDGE and values.shape[-1] >= LANES


def _laid(values: Tensor) -> Tensor:
    return values.detach().resolve_neg().contiguous()


def _flat(*tensors: Tensor) -> list[Any]:
    """Arrays of one dimension over the tensors' memory, or over a copy's where it is not contiguous."""
    return [_laid(values).view(-1).numpy() for values in tensors]


def _run(kernel: Callable[..., None], images: Tensor, *arguments: Any) -> None:
    """Calls a kernel for the planes of `images`. Of contiguous tensors among the arguments it gets the addresses."""
    if not images.numel():
        return
    given = (_address(each) if isinstance(each, Tensor) else each for each in arguments)
    threads, openmp = torch.get_num_threads(), _openmp(os.getpid())
    parts = max(1, min(threads, images.numel() // _PIXELS_A_THREAD)) if all(openmp) else 1
    kernel(*given, images.shape[:-2].numel(), (parts, threads, *openmp))


def _address(values: Tensor) -> int:
    """Where a tensor's memory begins. To make an array of it takes as long as a thousand pixels."""
    address = values.data_ptr()
    if not address and values.numel():
        raise InputError(f"a tensor without memory cannot go to the kernels: set {CHOICE}=torch for such transforms")
    return address


@cache
def _openmp(process: int) -> tuple[int, ...]:
    """The addresses that `threads.share` asks for, in what torch loaded for everybody; 0 where one is missing.

    They are missing in torch for Windows. They are not asked for in a process that was forked after percep was
    imported: OpenMP would wait for threads that are not there, as it does in torch, whose own operations need
    `torch.set_num_threads(1)` then. Without them one thread does everything.
    """
    if process == PROCESS:
        with suppress(AttributeError, TypeError):
            loaded = ctypes.CDLL(None)
            found = loaded.GOMP_parallel, loaded.omp_get_thread_num, loaded.omp_get_num_threads
            return tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in found)
    return 0, 0, 0


def _sides(values: Tensor) -> tuple[int, int]:
    return int(values.shape[-2]), int(values.shape[-1])
