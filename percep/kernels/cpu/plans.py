"""The passes of a window as tables, computed once for a size, and the kernels that are called with them."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import typeof
from numpy.typing import NDArray

from percep.kernels.cpu import strided, symmetric
from percep.kernels.cpu.multilevel import Transfers
from percep.kernels.cpu.simd import ROWS
from percep.kernels.cpu.strided import GROUP, Across, Down
from percep.kernels.cpu.symmetric import Passes
from percep.kernels.geometry import Geometry


@lru_cache(maxsize=64)
def across(window: Geometry, taps: tuple[float, ...], width: int) -> Across:
    """The pass along rows of so many pixels; `taps` are the window's or their squares."""
    before, after = window.margins
    count = _padded(window.size)
    # What pads the taps is multiplied by 0, and taken from the row itself.
    places = np.minimum(np.arange(count), window.size - 1)
    forwards, backwards = np.zeros((2, count), np.float32)
    forwards[: window.size], backwards[: window.size] = taps, taps[::-1]
    seen = np.arange(len(_seen(window, width)))[:, None] * window.stride + np.arange(window.size)
    row, tap = np.nonzero((seen < before) | (seen >= before + width))
    mirrored_to, mirrored_from = _mirrored(seen[row, tap] - before, width), window.size - 1 + row * window.stride
    return Across(
        places, forwards, backwards, window.size, window.stride, before, after, mirrored_to,
        mirrored_from, np.asarray(taps, np.float32)[tap], width, len(seen),
    )  # fmt: skip


@lru_cache(maxsize=64)
def down(window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Down:
    """The pass down columns of so many pixels, from a plane with rows of so many."""
    seen = _seen(window, height)
    rows = np.repeat(np.arange(len(seen)), window.size)
    return _table(rows, seen.ravel(), np.tile(taps, len(seen)), len(seen), width, ring=False)


@lru_cache(maxsize=64)
def back(window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Down:
    """The adjoint of `down`, from rows of windows whose adjoint across is in a ring buffer."""
    seen = _seen(window, height)
    rows = np.repeat(np.arange(len(seen)), window.size)
    return _table(seen.ravel(), rows, np.tile(taps, len(seen)), height, width, ring=True)


@lru_cache(maxsize=64)
def both(window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Passes:
    """Both passes of a symmetric window."""
    half = window.size // 2
    blocks = -(-height // ROWS)
    seen = np.arange(blocks)[:, None] * ROWS + np.arange(-half, half + ROWS)
    # What a last block of fewer rows sees below is of no use.
    rows = _mirrored(np.minimum(seen, height - 1 + half), height).ravel().astype(np.int64)
    ring_rows = 2 * (half + ROWS)
    cache_lines = -(-(width + 2 * symmetric.EDGE) // symmetric.CACHE_LINE) | 1
    pitch = cache_lines * symmetric.CACHE_LINE
    weights = tuple(np.asarray(taps[half:], np.float32))
    return Passes(weights, rows % ring_rows * pitch, height, width, ring_rows, pitch, blocks)


class Planned:
    """A kernel for planes of one size, with the tables of its passes.

    Its machine code is looked up at the first call, by the types of that call's arguments, and called directly from
    then on: Numba would find the type of every field of every named tuple at each call. So all calls must have
    arguments of the same types, as numbers, addresses and flat arrays of float32 have.

    Args:
        kernel: of `symmetric`, `update`, `strided` or `cg`.
        tables: its last arguments before the number of planes and the team.
    """

    def __init__(self, kernel: Any, *tables: Passes | Down | Across | Transfers) -> None:
        self._kernel, self._tables = kernel, tables
        self._machine_code: Callable[..., None] | None = None

    def __call__(self, *arguments: Any) -> None:
        """Runs the kernel; arguments are as in the kernel, without the tables."""
        *given, planes, team = arguments
        arguments = (*given, *self._tables, planes, team)
        if self._machine_code is None:
            self._machine_code = self._kernel.compile(tuple(typeof(each) for each in arguments))
        self._machine_code(*arguments)


@lru_cache(maxsize=256)
def symmetric_kernel(kernel: Any, window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Planned:
    """A kernel of `symmetric` or `update`, with both passes of a symmetric window."""
    return Planned(kernel, both(window, taps, height, width))


@lru_cache(maxsize=64)
def strided_mean(window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Planned:
    """`strided.mean` for planes of so many pixels."""
    return Planned(strided.mean, down(window, taps, height, width), across(window, taps, width))


@lru_cache(maxsize=64)
def strided_adjoint(window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Planned:
    """`strided.adjoint`, to planes of so many pixels."""
    return Planned(strided.adjoint, back(window, taps, height, width), across(window, taps, width))


def _table(
    rows: NDArray[np.int64],
    sources: NDArray[np.int64],
    taps: NDArray[np.float64],
    count: int,
    width: int,
    *,
    ring: bool,
) -> Down:
    """The pass to `count` rows that gives each of `rows` its tap times its source; several of a pair are added."""
    pairs, place = np.unique(np.stack([rows, sources]), axis=1, return_inverse=True)
    (row, source), tap = pairs, np.bincount(place.ravel(), taps)
    sizes = np.bincount(row, minlength=count)
    column = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # A row that needs none lies between its neighbours.
    begin, end = np.full(count, sources.max() + 1), np.zeros(count, np.int64)
    np.minimum.at(begin, row, source)
    np.maximum.at(end, row, source + 1)
    begin, end = np.minimum.accumulate(begin[::-1])[::-1].copy(), np.maximum.accumulate(end)
    ring_rows = int((end - begin).max())
    shape = (count, _padded(int(sizes.max())))
    # The table is padded with the row of zeros, or in a plane with one that is needed anyway.
    places = np.full(shape, ring_rows) if ring else np.broadcast_to(begin[:, None], shape).copy()
    table = np.zeros(shape, np.float32)
    places[row, column], table[row, column] = source % ring_rows if ring else source, tap
    return Down(places * width, table, begin, end, ring_rows, width)


def _seen(window: Geometry, length: int) -> NDArray[np.int64]:
    """The pixels that each window of a line sees, `(windows, size)`."""
    before, after = window.margins
    count = (length + before + after - window.size) // window.stride + 1
    return _mirrored(np.arange(count)[:, None] * window.stride + np.arange(window.size) - before, length)


def _mirrored(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places beside a line of so many pixels as those that are mirrored there."""
    return np.where(places < length, np.abs(places), 2 * (length - 1) - places)


def _padded(count: int) -> int:
    return -(-count // GROUP) * GROUP
