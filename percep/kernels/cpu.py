"""Launchers of the Numba kernels, on float32 tensors of any strides; `percep.windows` and the solvers define them.

As many threads as torch uses share the rows in equal parts. Results do not depend on how many: every row has its own
partial sum, and these are added in a fixed order.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from percep.errors import InputError
from percep.kernels import CHOICE, general, passes, symmetric
from percep.kernels.pieces import Floor, Updated, laid, room
from percep.kernels.vectors import LANES
from percep.windows import Window

# To start a thread, on a core where those of torch still wait for more, takes as long as some ten thousands of pixels.
_PIXELS_A_THREAD = 2**17


def mean(values: Tensor, window: Window, taps: tuple[float, ...]) -> Tensor:
    """`A v` with the taps given, `(..., H, W)` to `(..., h, w)`."""
    height, width = _sides(values)
    result = values.new_empty(*values.shape[:-2], *window.grid(height, width))
    of_window = (window, taps, height, width)
    if by_vectors(values, window):
        both = passes.both(*of_window)
        _shared(symmetric.mean, values, both.blocks, _laid(values), result, both)
    else:
        across, down = passes.across(window, taps, width), passes.down(*of_window)
        _shared(general.mean, values, result.shape[-2], *_flat(values, result), height, down, across)
    return result


def adjoint(maps: Tensor, window: Window, taps: tuple[float, ...], height: int, width: int) -> Tensor:
    """`A' u` with the taps given, `(..., h, w)` to `(..., height, width)`."""
    result = maps.new_empty(*maps.shape[:-2], height, width)
    of_window = (window, taps, height, width)
    if by_vectors(result, window):
        u, both = _laid(maps), passes.both(*of_window)
        _shared(symmetric.spread, result, both.blocks, u, u, u, result, result, False, both)
    else:
        across, back = passes.across(window, taps, width), passes.back(*of_window)
        _shared(general.adjoint, result, height, *_flat(maps, result), maps.shape[-2], back, across)
    return result


def product(
    values: Tensor, diagonal: Tensor, inner: Tensor, window: Window, active: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`M v = diagonal v + A' (inner A v)`, `(B, C, H, W)`, and `<v, M v>`, `(B, 1, 1, 1)`.

    Args:
        values: v.
        diagonal, inner: broadcasting to `(B, C, H, W)`.
        window: of A, such that `by_vectors`.
        active: `(B,)`; of an image that is not, nothing is read, and both are 0. None is all.
    """
    height, width = _sides(values)
    window.grid(height, width)
    chosen = None if active is None or bool(active.all()) else torch.nonzero(active.flatten()).flatten()
    shape = values.shape
    given = [each if each.shape == shape else each.expand(shape) for each in (values, diagonal, inner)]
    given = [_laid(each if chosen is None else each[chosen]) for each in given]
    result, sums = room(given[0]), given[0].new_empty(len(given[0]), values.shape[1], height)
    both = passes.both(window, window.taps, height, width)
    _shared(symmetric.spread, given[0], both.blocks, *given, result, sums, True, both)
    curvature = _total(sums)
    if chosen is not None:
        result = room(values).zero_().index_copy_(0, chosen, result)
        curvature = values.new_zeros(len(values)).index_copy_(0, chosen, curvature)
    return result, curvature.reshape(-1, 1, 1, 1)


def update(
    delta: Tensor,
    reference: Tensor,
    moments: tuple[Tensor, Tensor],
    floor: Floor | None,
    weights: tuple[Tensor, Tensor] | None,
    paces: tuple[Tensor, Tensor],
    window: Window,
) -> Updated:
    """One step of the floor's multipliers, and the ellipsoid's norm; what is not asked for is not written.

    Args:
        delta, reference: `(B, C, H, W)`.
        moments: mean and variance of the reference, `(B, C, H, W)`.
        floor: None without a floor.
        weights: the ellipsoid's, of squared means and variances, `(B, C, H, W)`; None without a mean.
        paces: eta and the momentum of each image, `(B,)`.
        window: of the local moments, such that `by_vectors`.
    """
    height, width = _sides(delta)
    window.grid(height, width)
    of_floor, both = laid(floor, moments[0]), passes.both(window, window.taps, height, width)
    sums, extremes = delta.new_zeros(delta.shape[:-1]), delta.new_empty(*delta.shape[:-1], 4)
    images = [_laid(each) for each in (delta, reference, *moments)]
    others = [_laid(each) for each in (*(weights or moments), *paces)]
    _shared(
        symmetric.update, delta, both.blocks, *images, *of_floor.k, *of_floor.strides,
        *of_floor.radii, *of_floor.multipliers, *of_floor.last, *others,
        *of_floor.raised, *of_floor.steps, sums, extremes, delta.shape[1], floor is not None, weights is not None, both,
    )  # fmt: skip
    if floor is not None and delta.numel():
        lowest = floor.least * extremes.flatten(1, 2).amax(1)[:, ::2].contiguous()
        _shared(symmetric.keep, delta, height, *of_floor.raised, extremes, lowest, *delta.shape[1:])
    return Updated(of_floor.raised, of_floor.steps, _total(sums).reshape(-1, 1, 1, 1))


def by_vectors(values: Tensor, window: Window) -> bool:
    """Whether images `values`, `(..., H, W)`, are for the kernels of `symmetric`, and so for `product` and `update`."""
    return window.is_own_adjoint and window.size < 2 * symmetric.EDGE and values.shape[-1] >= LANES


def _total(sums: Tensor) -> Tensor:
    """Sums of rows, `(B, C, H)`, by image: plane by plane, as torch splits long sums among threads."""
    return sums.sum(2).sum(1)


def _laid(values: Tensor) -> Tensor:
    return values.detach().resolve_neg().contiguous()


def _flat(*tensors: Tensor) -> list[Any]:
    """Arrays of one dimension over the tensors' memory, or over a copy's where it is not contiguous."""
    return [_laid(values).view(-1).numpy() for values in tensors]


def _shared(kernel: Callable[..., None], images: Tensor, count: int, *arguments: Any) -> None:
    """Calls a kernel for the pieces of all planes of `images`, each of which has so many.

    Of contiguous tensors among the arguments it gets the addresses.
    """
    if not images.numel():
        return
    pieces = images.shape[:-2].numel() * count
    threads = max(1, min(torch.get_num_threads(), images.numel() // _PIXELS_A_THREAD, pieces))
    bounds = [pieces * part // threads for part in range(threads + 1)]
    others = [_pool().submit(_call, kernel, arguments, *bounds[part : part + 2]) for part in range(1, threads)]
    _call(kernel, arguments, *bounds[:2])
    for other in others:
        other.result()


def _call(kernel: Callable[..., None], arguments: tuple[Any, ...], start: int, stop: int) -> None:
    """Calls a kernel while this thread holds the tensors, so that an interrupt of another cannot free them."""
    kernel(*(_address(each) if isinstance(each, Tensor) else each for each in arguments), start, stop)


def _address(values: Tensor) -> int:
    """Where a tensor's memory begins. To make an array of it takes as long as a thousand pixels."""
    address = values.data_ptr()
    if not address and values.numel():
        raise InputError(f"a tensor without memory cannot go to the kernels: set {CHOICE}=torch for such transforms")
    return address


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "percep")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork; Numba's lock does, where one is just compiling
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _sides(values: Tensor) -> tuple[int, int]:
    return int(values.shape[-2]), int(values.shape[-1])
