"""The launcher of the Numba kernels, for float32; see `percep.kernels.launcher.Launcher`.

As many threads as torch uses share the rows in equal parts.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percep.errors import InputError
from percep.kernels import CHOICE, PROCESS
from percep.kernels.arguments import (
    FloorBalls,
    ImageArguments,
    SystemArguments,
    Updated,
    UpdateInputs,
    WindowExcesses,
    contiguous,
    empty_like,
    sides,
    system_arguments,
    update_arguments,
)
from percep.kernels.cpu import plans, projections, symmetric, update
from percep.kernels.cpu.openmp import Team
from percep.kernels.cpu.simd import LANES
from percep.kernels.geometry import Geometry

_PIXELS_A_THREAD = 2**15  # as in torch


def mean(values: Tensor, window: Geometry, taps: tuple[float, ...]) -> Tensor:
    """See `Launcher.mean`."""
    height, width = sides(values)
    result = values.new_empty(*values.shape[:-2], *window.grid(height, width))
    of_window = (window, taps, height, width)
    if fuses(values, window):
        _run(plans.symmetric_kernel(symmetric.mean, *of_window), values, contiguous(values), result)
    else:
        _run(plans.strided_mean(*of_window), values, *_flat(values, result), height)
    return result


def adjoint(maps: Tensor, window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Tensor:
    """See `Launcher.adjoint`."""
    result = maps.new_empty(*maps.shape[:-2], height, width)
    of_window = (window, taps, height, width)
    if fuses(result, window):
        _run(plans.symmetric_kernel(symmetric.adjoint, *of_window), result, contiguous(maps), result)
    else:
        _run(plans.strided_adjoint(*of_window), result, *_flat(maps, result), maps.shape[-2])
    return result


def product(
    vector: Tensor, diagonal: Tensor, inner: Tensor, window: Geometry, active: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `Launcher.product`; for a window that `fuses`."""
    given = system_arguments(vector, diagonal, inner, window)
    system = SystemArguments(*(contiguous(each) for each in given))
    images = np.arange(len(vector)) if active is None else np.flatnonzero(active.numpy())
    result, curvature = empty_like(system.vector), vector.new_zeros(len(vector), 1, 1, 1)
    if len(images) < len(vector):
        result.zero_()
    kernel = plans.symmetric_kernel(symmetric.product, window, window.taps, *sides(vector))
    run_chosen(kernel, vector, images, system, result, curvature)
    return result, curvature


def update_multipliers(given: UpdateInputs, window: Geometry) -> Updated:
    """See `Launcher.update_multipliers`; for a window that `fuses`."""
    delta, floor = given.delta, given.floor
    window.grid(*sides(delta))
    arguments = update_arguments(given)
    squared_norms = delta.new_zeros(len(delta), 1, 1, 1)
    parts = update.Parts(floor is not None, 0.0 if floor is None else floor.min_share, given.weights is not None)
    kernel = plans.symmetric_kernel(update.update, window, window.taps, *sides(delta))
    _run(kernel, delta, addresses(arguments), squared_norms, delta.shape[1], parts)
    return Updated(*arguments.updated, squared_norms)


def window_excesses(delta: Tensor, balls: FloorBalls, tightening: float, window: Geometry) -> WindowExcesses:
    """See `CPULauncher.window_excesses`."""
    found = projections.Excesses(*(empty_like(balls.radii[0]) for _ in range(3)))
    exceeded = delta.new_zeros(len(delta), 1, 1, 1)
    kernel = plans.symmetric_kernel(projections.find_excesses, window, window.taps, *sides(delta))
    images, radii = _of_projections(delta, balls)
    given = addresses(images), addresses(radii), addresses(found), exceeded, float(tightening), delta.shape[1]
    _run(kernel, delta, *given)
    return WindowExcesses(*found, exceeded > 0)


def project(delta: Tensor, amount: Tensor, of_mean: Tensor, balls: FloorBalls, window: Geometry) -> Tensor:
    """See `CPULauncher.project`."""
    result = empty_like(delta)
    kernel = plans.symmetric_kernel(projections.project, window, window.taps, *sides(delta))
    images, radii = _of_projections(delta, balls)
    given = contiguous(amount), contiguous(of_mean), addresses(radii), result, delta.shape[1]
    _run(kernel, delta, addresses(images), *given)
    return result


def _of_projections(delta: Tensor, balls: FloorBalls) -> tuple[ImageArguments[Tensor], projections.Radii[Tensor]]:
    """Contiguous, to outlive a kernel's call."""
    images = ImageArguments(*(contiguous(values) for values in (delta, balls.reference, *balls.moments)))
    luminance, contrast, k_luminance, k_contrast = (contiguous(values) for values in (*balls.radii, *balls.k))
    radii = projections.Radii(luminance, contrast, k_luminance, k_contrast, int(len(k_luminance) > 1))
    return images, radii


def fuses(values: Tensor, window: Geometry) -> bool:
    """See `Launcher.fuses`: where the kernels of `symmetric` do the work."""
    return window.is_own_adjoint and window.size < 2 * symmetric.EDGE and values.shape[-1] >= LANES


def _flat(*tensors: Tensor) -> list[Any]:
    """Arrays of one dimension over the tensors' memory, or over a copy's where it is not contiguous."""
    return [contiguous(values).view(-1).numpy() for values in tensors]


def _run(kernel: Callable[..., None], images: Tensor, *arguments: Any) -> None:
    """Calls a kernel for the planes of `images`. Of contiguous tensors among the arguments it gets the addresses."""
    if not images.numel():
        return
    given = (_address(each) if isinstance(each, Tensor) else each for each in arguments)
    kernel(*given, images.shape[:-2].numel(), team(images.numel()))


def run_chosen(kernel: Callable[..., None], images: Tensor, chosen: NDArray[np.int64], *arguments: Any) -> None:
    """Calls a kernel for some of the `images`, `(B, C, H, W)`, with addresses in place of contiguous tensors."""
    channels, height, width = images.shape[1:]
    planes = len(chosen) * channels
    if planes:
        kernel(*addresses(arguments), chosen, channels, planes, team(planes * height * width))


def team(pixels: int) -> Team:
    """What works on so many pixels."""
    threads, openmp = torch.get_num_threads(), _openmp(os.getpid())
    return Team(max(1, min(threads, pixels // _PIXELS_A_THREAD)) if all(openmp) else 1, threads, *openmp)


def addresses(arguments: tuple[Any, ...]) -> Any:
    """A kernel's named tuples with addresses in place of contiguous tensors, which have to outlive the call."""
    made = [
        _address(each) if isinstance(each, Tensor) else addresses(each) if isinstance(each, tuple) else each
        for each in arguments
    ]
    return tuple.__new__(type(arguments), made)


def _address(values: Tensor) -> int:
    """Where a tensor's memory begins. To make an array of it takes as long as a thousand pixels."""
    address = values.data_ptr()
    if not address and values.numel():
        raise InputError(f"a tensor without memory cannot go to the kernels: set {CHOICE}=torch for such transforms")
    return address


@cache
def _openmp(process: int) -> tuple[int, int, int]:
    """The addresses of a `Team`, in what torch loaded for everybody; 0 where one is missing.

    They are missing in torch for Windows. They are not asked for in a process that was forked after percep was
    imported: OpenMP would wait for threads that are not there, as it does in torch, whose own operations need
    `torch.set_num_threads(1)` then. Without them one thread does everything.
    """
    if process == PROCESS:
        with suppress(AttributeError, TypeError):
            loaded = ctypes.CDLL(None)
            found = loaded.GOMP_parallel, loaded.omp_get_thread_num, loaded.omp_get_num_threads
            fork, thread, num_threads = (ctypes.cast(each, ctypes.c_void_p).value or 0 for each in found)
            return fork, thread, num_threads
    return 0, 0, 0
