"""Launchers of the Triton kernels, on tensors of any strides; the definitions are in `percep.windows` and the solvers.

Results are deterministic: every tile has its own partial sum, and these are added in a fixed order.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from percep.kernels.arguments import Floor, Updated, contiguous, laid, no_less
from percep.kernels.geometry import Geometry
from percep.kernels.gpu import triton_kernels
from percep.kernels.gpu.tiling import Tiling, of_moments, of_pixels, of_products, of_windows, pixels_seen, windows_seen

# Of a multiprocessor: what keeps its memory busy while others wait at barriers.
_PROGRAMS = 4
WARPS = 16
_TINY = 1e-30


def mean(values: Tensor, window: Geometry, taps: tuple[float, ...]) -> Tensor:
    """`A v` with the taps given, `(..., H, W)` to `(..., h, w)`."""
    grid = window.grid(*_sides(values))
    result = values.new_empty(*values.shape[:-2], *grid)
    work = _Work(window, of_windows(window, *_sides(values), values.itemsize), values, grid, 1)
    if result.numel():
        triton_kernels.passes_kernel[work.programs](
            values.contiguous(), result, work.scratch, _on_device(taps, values), *work.sizes, FORWARD=True, **work.meta
        )
    return result


def adjoint(maps: Tensor, window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Tensor:
    """`A' u` with the taps given, `(..., h, w)` to `(..., height, width)`."""
    result = maps.new_empty(*maps.shape[:-2], height, width)
    work = _Work(window, of_pixels(window, height, width, maps.itemsize), result, (height, width), 1)
    if result.numel():
        triton_kernels.passes_kernel[work.programs](
            maps.contiguous(), result, work.scratch, _on_device(taps, maps), *work.sizes, FORWARD=False, **work.meta
        )
    return result


def product(
    values: Tensor,
    diagonal: Tensor,
    inner: Tensor,
    window: Geometry,
    active: Tensor | None = None,
    result: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`M v = diagonal v + A' (inner A v)`, `(B, C, H, W)`, and `<v, M v>`, `(B, 1, 1, 1)`.

    Args:
        values: v.
        diagonal, inner: broadcasting to `(B, C, H, W)` and `(B, C, h, w)`.
        window: of A.
        active: `(B,)`, 0 where an image is left out: its part of `result` is not written, its inner product is 0.
            None is all.
        result: contiguous, to be overwritten; a new one is 0 where nothing is written.
    """
    grid = window.grid(*_sides(values))
    values, diagonal = values.contiguous(), diagonal.expand(values.shape).contiguous()
    inner = inner.expand(*values.shape[:2], *grid).contiguous()
    active = values.new_ones(len(values), dtype=torch.int32) if active is None else active.to(torch.int32)
    result = torch.zeros_like(values) if result is None else result
    work = _Work(window, of_products(window, *_sides(values), values.itemsize), values, _sides(values), 2)
    partial = work.partial(values)
    if values.numel():
        triton_kernels.product_kernel[work.programs](
            values, diagonal, inner, result, partial, active, work.scratch, _on_device(window.taps, values),
            values.shape[1], *work.sizes, **work.meta,
        )  # fmt: skip
    return result, partial.sum(1).reshape(-1, 1, 1, 1)


def update(
    delta: Tensor,
    reference: Tensor,
    moments: tuple[Tensor, Tensor],
    floor: Floor | None,
    weights: tuple[Tensor, Tensor] | None,
    paces: tuple[Tensor, Tensor],
    window: Geometry,
) -> Updated:
    """One step of the floor's multipliers, and the ellipsoid's norm. What is not asked for is not written.

    Args:
        delta, reference: `(B, C, H, W)`.
        moments: mean and variance of the reference, `(B, C, h, w)`.
        floor: None without a floor.
        weights: the ellipsoid's, of squared means and variances, `(B, C, h, w)`; None without a mean.
        paces: eta and the momentum of each image, `(B,)`.
        window: of the local moments.
    """
    grid = window.grid(*_sides(delta))
    mean_x, variance_x = (moment.contiguous() for moment in moments)
    work = _Work(window, of_moments(window, *_sides(delta), delta.itemsize), delta, grid, 3)
    of_floor = laid(floor, mean_x)
    spent = work.partial(delta)
    if delta.numel():
        triton_kernels.update_kernel[work.programs](
            delta.contiguous(), reference.contiguous(), mean_x, variance_x, *of_floor.k, *of_floor.strides,
            *of_floor.radii, *of_floor.multipliers, *of_floor.last, *of_floor.raised, *of_floor.steps,
            *contiguous((mean_x, mean_x) if weights is None else weights), spent, *contiguous(paces),
            work.scratch, _on_device(window.taps, delta), delta.shape[1], *work.sizes,
            FLOOR=floor is not None, MEAN=weights is not None, TINY=_TINY, **work.meta,
        )  # fmt: skip
    if floor is not None:
        for multipliers in of_floor.raised:
            no_less(multipliers, floor.least)
    return Updated(of_floor.raised, of_floor.steps, spent.sum(1).reshape(-1, 1, 1, 1))


def fuses(values: Tensor, window: Geometry) -> bool:
    """Whether `product` and `update` are for images `values`, `(..., H, W)`."""
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
        planes, self.tiles = images.shape[:-2].numel(), down * across
        programs = max(1, min(planes * self.tiles, _programs(images.device)))
        self.programs = (programs,)
        self.scratch = images.new_empty(programs * blocks * tiling.block[0] * tiling.block[1])
        self.sizes = (planes, *_sides(images), *window.grid(*_sides(images)), across, self.tiles, programs)
        self.meta = constants(window, tiling) | {"num_warps": WARPS}

    def partial(self, images: Tensor) -> Tensor:
        """Zeros for the sum of every tile of an image."""
        return images.new_zeros(len(images), images.shape[1] * self.tiles)


def constants(window: Geometry, tiling: Tiling) -> dict[str, Any]:
    """What a kernel is compiled for."""
    mirrored = window.padding == "reflect"
    return {
        "TILE_ROWS": tiling.tile[0],
        "TILE_COLUMNS": tiling.tile[1],
        "ROWS": tiling.block[0],
        "COLUMNS": tiling.block[1],
        "PIXELS_SEEN": pixels_seen(window),
        "WINDOWS_SEEN": windows_seen(window),
        "STRIDE": window.stride,
        "BEFORE": (window.size - 1) // 2 if mirrored else 0,
        "SIZE": window.size,
        "MIRRORED": mirrored,
    }


def _sides(values: Tensor) -> tuple[int, int]:
    return int(values.shape[-2]), int(values.shape[-1])


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return _PROGRAMS
    return _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


def _on_device(taps: tuple[float, ...], values: Tensor) -> Tensor:
    return _taps(taps, values.dtype, values.device)


@lru_cache(maxsize=64)
def _taps(taps: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(taps, dtype=dtype, device=device)
