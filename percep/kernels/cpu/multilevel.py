"""The transfers of `percep.solvers.preconditioner.Multilevel` as tables, and Numba kernels for its coarse levels.

A bilinear hat of a coarse grid has two taps per axis and pixel, so that transfers are sparse. The rows of an image
between the middles of two neighbouring hats are a band: they are sums of parts of the same two rows of the first
coarse grid. Work on the image is divided by bands, and a band leaves its own contribution to either of the two.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from percep.kernels.cpu.compile import compiled, inlined
from percep.kernels.cpu.simd import read, write

_ZERO, _ONE = np.float32(0), np.float32(1)


class Transfers(NamedTuple):
    """Bilinear interpolation from every coarse grid to the next finer one, the first of which is the image.

    Transfer l has two axes, `2 l` down and `2 l + 1` across. The values of all coarse grids lie behind each other.

    Attributes:
        height, width, bands: of an image, and the rows of its first coarse grid.
        levels: number of coarse grids.
        sizes: `(2 levels + 2,)`, height and width of the image and of every coarse grid.
        begin: `(levels + 1,)`, where each coarse grid begins, and where the last one ends.
        band_rows: `(bands + 1,)`, the first row of each band, and the image's height.
        before_at: `(2 levels,)`, where an axis begins in `before` and `fraction`.
        before, fraction: for every line of the finer grid the coarse line before it, and the share of the one after.
        seen_at, spans: `(2 levels,)`, where an axis begins in `seen`, and how many finer lines a coarse one sees.
        seen: for every coarse line the first of the finer lines that it sees.
        weights_at, weights: likewise the shares with which it sees them.
    """

    height: int
    width: int
    bands: int
    levels: int
    sizes: NDArray[np.int64]
    begin: NDArray[np.int64]
    band_rows: NDArray[np.int64]
    before_at: NDArray[np.int64]
    before: NDArray[np.int64]
    fraction: NDArray[np.float32]
    seen_at: NDArray[np.int64]
    spans: NDArray[np.int64]
    seen: NDArray[np.int64]
    weights_at: NDArray[np.int64]
    weights: NDArray[np.float32]


def transfers(sizes: tuple[tuple[int, int], ...]) -> Transfers:
    """Those between grids of so many rows and columns, the image first."""
    axes = [(fine[axis], coarse[axis]) for fine, coarse in pairwise(sizes) for axis in (0, 1)]
    interpolations = [_interpolation(*lengths) for lengths in axes]
    before, fraction = zip(*interpolations, strict=True)
    seen, weights = zip(
        *(_adjoint(*found, lengths[1]) for found, lengths in zip(interpolations, axes, strict=True)), strict=True
    )
    (height, width), (bands, _) = sizes[:2]
    return Transfers(
        height=height,
        width=width,
        bands=bands,
        levels=len(sizes) - 1,
        sizes=np.array(sizes).ravel(),
        begin=_begins([rows * columns for rows, columns in sizes[1:]]),
        band_rows=np.searchsorted(before[0], np.arange(bands + 1)),
        before_at=_begins(map(len, before))[:-1],
        before=np.concatenate(before),
        fraction=np.concatenate(fraction, dtype=np.float32),
        seen_at=_begins(map(len, seen))[:-1],
        spans=np.array([each.shape[1] for each in weights]),
        seen=np.concatenate(seen),
        weights_at=_begins(each.size for each in weights)[:-1],
        weights=np.concatenate([each.ravel() for each in weights], dtype=np.float32),
    )


def _begins(counts: Iterable[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *counts])


def _interpolation(length: int, coarse: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each fine line the coarse one before it, and the share of the next, as torch interpolates."""
    place = np.maximum((np.arange(length) + 0.5) * coarse / length - 0.5, 0)
    before = np.minimum(place.astype(np.int64), coarse - 1)
    return before, np.where(before < coarse - 1, place - before, 0.0)


def _adjoint(
    before: NDArray[np.int64], fraction: NDArray[np.float64], coarse: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each coarse line the first fine line that it sees, and the shares of that and of those after it."""
    lines = np.arange(coarse)
    first, last = np.searchsorted(before, lines - 1), np.searchsorted(before, lines, side="right")
    span = int((last - first).max())
    first = np.minimum(first, len(before) - span)
    place = first[:, None] + np.arange(span)
    own, next_one = before[place] == lines[:, None], before[place] == lines[:, None] - 1
    return first, np.where(own, 1 - fraction[place], np.where(next_one, fraction[place], 0.0))


@inlined
def restrict_line(out, to, line, at, axis, passes):
    """The adjoint of interpolation along a line that lies `at` a place, onto the coarser line that begins at `to`."""
    span, seen, weight = passes.spans[axis], passes.seen_at[axis], passes.weights_at[axis]
    for k in range(passes.sizes[axis + 2]):
        added, first = _ZERO, at + passes.seen[seen + k]
        for s in range(span):
            added += passes.weights[weight + s] * read(line, first + s)
        write(out, to + k, added)
        weight += span


@inlined
def interpolate_line(out, to, line, at, axis, passes):
    """Interpolation along a coarse line that lies `at` a place, to the finer line that begins at `to`."""
    place, last = passes.before_at[axis], passes.sizes[axis + 2] - 1
    for j in range(passes.sizes[axis]):
        before, share = passes.before[place + j], passes.fraction[place + j]
        write(out, to + j, (_ONE - share) * read(line, at + before) + share * read(line, at + min(before + 1, last)))


@compiled
def correct(contributions, inverse, corrections, images, channels, passes, start, stop):
    """Planes `[start, stop)` of the chosen images, counted through them: the corrections of the first coarse grid.

    Args:
        contributions: of every band to the two coarse rows around it, restricted across.
        inverse: of the energies of the hats, for every plane those of all coarse grids.
        corrections: what is to be interpolated and added.
        images, channels: the images, with so many planes each.
        passes: the transfers.
        start, stop: the planes.
    """
    count, rows, columns = passes.begin[passes.levels], passes.sizes[2], passes.sizes[3]
    restricted, corrected = np.empty(count, np.float32), np.empty(count, np.float32)
    lines = np.empty(rows * columns, np.float32)
    for item in range(start, stop):
        plane = images[item // channels] * channels + item % channels
        begin = 2 * plane * rows * columns
        for row in range(rows):
            for k in range(columns):
                value = read(contributions, begin + 2 * row * columns + k)
                if row:
                    value += read(contributions, begin + (2 * row - 1) * columns + k)
                restricted[row * columns + k] = value
        for level in range(1, passes.levels):
            _restrict(restricted, lines, level, passes)
        _correct(corrected, restricted, inverse, plane * count, passes.levels - 1, passes)
        for level in range(passes.levels - 1, 0, -1):
            _correct(corrected, restricted, inverse, plane * count, level - 1, passes)
            _add_interpolated(corrected, lines, level, passes)
        for k in range(rows * columns):
            write(corrections, plane * rows * columns + k, corrected[k])


@inlined
def _restrict(restricted, lines, level, passes):
    """The restriction to a coarse grid from the next finer one."""
    axis = 2 * level
    fine, width = passes.sizes[axis], passes.sizes[axis + 1]
    rows, columns = passes.sizes[axis + 2], passes.sizes[axis + 3]
    at, to = passes.begin[level - 1], passes.begin[level]
    for i in range(fine):
        restrict_line(lines, i * columns, restricted, at + i * width, axis + 1, passes)
    for row in range(rows):
        first, weight = passes.seen[passes.seen_at[axis] + row], passes.weights_at[axis] + row * passes.spans[axis]
        for k in range(columns):
            restricted[to + row * columns + k] = _ZERO
        for s in range(passes.spans[axis]):
            for k in range(columns):
                restricted[to + row * columns + k] += passes.weights[weight + s] * lines[(first + s) * columns + k]


@inlined
def _correct(corrected, restricted, inverse, at, level, passes):
    """What the hats of one coarse grid correct themselves."""
    for k in range(passes.begin[level], passes.begin[level + 1]):
        corrected[k] = read(inverse, at + k) * restricted[k]


@inlined
def _add_interpolated(corrected, lines, level, passes):
    """Adds the corrections of a coarse grid to those of the next finer one."""
    axis = 2 * level
    fine, width = passes.sizes[axis], passes.sizes[axis + 1]
    rows, columns = passes.sizes[axis + 2], passes.sizes[axis + 3]
    at, to = passes.begin[level], passes.begin[level - 1]
    for row in range(rows):
        interpolate_line(lines, row * width, corrected, at + row * columns, axis + 1, passes)
    for i in range(fine):
        before, share = passes.before[passes.before_at[axis] + i], passes.fraction[passes.before_at[axis] + i]
        after = min(before + 1, rows - 1)
        for j in range(width):
            mixed = (_ONE - share) * lines[before * width + j] + share * lines[after * width + j]
            corrected[to + i * width + j] += mixed
