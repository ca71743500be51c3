"""The launcher of the Triton kernels, for float32 and float64; see `percep.kernels.launcher.Launcher`."""

from functools import lru_cache

import torch
from torch import Tensor

from percep.kernels.arguments import (
    SystemArguments,
    Updated,
    UpdateInputs,
    clamp_to_share,
    contiguous,
    sides,
    system_arguments,
    update_arguments,
)
from percep.kernels.geometry import Geometry
from percep.kernels.gpu import triton_kernels
from percep.kernels.gpu.tiling import Sizes, Tiling, constants, of_moments, of_pixels, of_products, of_windows

# Of a multiprocessor: what keeps its memory busy while others wait at barriers.
_PROGRAMS = 4
WARPS = 16
_TINY = 1e-30
# Whether passes take a tap at a time, instead of computing the weight of every element: `benchmarks.gpu` measures both.
TAP_BY_TAP = False


def mean(values: Tensor, window: Geometry, taps: tuple[float, ...]) -> Tensor:
    """See `Launcher.mean`."""
    grid = window.grid(*sides(values))
    result = values.new_empty(*values.shape[:-2], *grid)
    work = _Work(window, of_windows(window, *sides(values), values.itemsize), values, grid, 1)
    if result.numel():
        triton_kernels.passes_kernel[work.programs](
            contiguous(values), result, work.scratch, _on_device(taps, values), work.sizes,
            FORWARD=True, C=work.constants, num_warps=WARPS,
        )  # fmt: skip
    return result


def adjoint(maps: Tensor, window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Tensor:
    """See `Launcher.adjoint`."""
    result = maps.new_empty(*maps.shape[:-2], height, width)
    work = _Work(window, of_pixels(window, height, width, maps.itemsize), result, (height, width), 1)
    if result.numel():
        triton_kernels.passes_kernel[work.programs](
            contiguous(maps), result, work.scratch, _on_device(taps, maps), work.sizes,
            FORWARD=False, C=work.constants, num_warps=WARPS,
        )  # fmt: skip
    return result


def product(
    vector: Tensor, diagonal: Tensor, inner: Tensor, window: Geometry, active: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `Launcher.product`. The host does not read `active`, so that a CUDA graph can be recorded."""
    system = SystemArguments(*(contiguous(each) for each in system_arguments(vector, diagonal, inner, window)))
    active = vector.new_ones(len(vector), dtype=torch.int32) if active is None else active.to(torch.int32)
    result = torch.zeros_like(system.vector)
    return result, _product(system, active, result, window)


def _product(system: SystemArguments[Tensor], active: Tensor, result: Tensor, window: Geometry) -> Tensor:
    """Writes `M v` of the active images, and of no other, to `result`; returns `<v, M v>`, `(B, 1, 1, 1)`."""
    vector = system.vector
    work = _Work(window, of_products(window, *sides(vector), vector.itemsize), vector, sides(vector), 2)
    sums = work.sums(vector)
    if vector.numel():
        triton_kernels.product_kernel[work.programs](
            system, active, result, sums, work.scratch, _on_device(window.taps, vector), vector.shape[1], work.sizes,
            C=work.constants, num_warps=WARPS,
        )  # fmt: skip
    return sums.sum(1).reshape(-1, 1, 1, 1)


def update_multipliers(given: UpdateInputs, window: Geometry) -> Updated:
    """See `Launcher.update_multipliers`."""
    delta, floor = given.delta, given.floor
    grid = window.grid(*sides(delta))
    arguments = update_arguments(given)
    work = _Work(window, of_moments(window, *sides(delta), delta.itemsize), delta, grid, 3)
    sums = work.sums(delta)
    if delta.numel():
        triton_kernels.update_kernel[work.programs](
            arguments, sums, work.scratch, _on_device(window.taps, delta), delta.shape[1], work.sizes,
            FLOOR=floor is not None, MEAN=given.weights is not None, TINY=_TINY, C=work.constants, num_warps=WARPS,
        )  # fmt: skip
    multipliers, steps = arguments.updated
    if floor is not None:
        for each in multipliers:
            clamp_to_share(each, floor.min_share)
    return Updated(multipliers, steps, sums.sum(1).reshape(-1, 1, 1, 1))


def fuses(values: Tensor, window: Geometry) -> bool:
    """See `Launcher.fuses`."""
    return True


class _Work:
    """How a launch is divided, and the arguments that say so.

    Args:
        window: of the passes.
        tiling: of the result.
        images: a tensor of the images' shape.
        result: height and width of the result.
        blocks: of scratch for each program.
    """

    def __init__(self, window: Geometry, tiling: Tiling, images: Tensor, result: tuple[int, int], blocks: int) -> None:
        down, across = tiling.count(*result)
        planes, tiles = images.shape[:-2].numel(), down * across
        programs = max(1, min(planes * tiles, _programs(images.device)))
        self.programs = (programs,)
        self.scratch = images.new_empty(programs * blocks * tiling.block[0] * tiling.block[1])
        self.sizes = Sizes(planes, *sides(images), *window.grid(*sides(images)), across, tiles, programs)
        self.constants = constants(window, tiling, tap_by_tap=TAP_BY_TAP)

    def sums(self, images: Tensor) -> Tensor:
        """Zeros for the sum of every tile of an image, `(B, C * tiles)`."""
        return images.new_zeros(len(images), images.shape[1] * self.sizes.tiles)


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return _PROGRAMS
    return _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


def _on_device(taps: tuple[float, ...], values: Tensor) -> Tensor:
    return _taps(taps, values.dtype, values.device)


@lru_cache(maxsize=64)
def _taps(taps: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(taps, dtype=dtype, device=device)
