"""Numba kernels for windows of an odd number of symmetric taps, mirrored at the borders, of stride 1: SSIM's own.

A mean over such a window is its own adjoint but for the borders: on the even continuation of a line it is a
symmetric convolution, and in that continuation a pixel at a border stands once, any other twice. So `A' = D A D^-1`,
where D halves what lies at a border.

Rows are done in blocks of `ROWS`, which share what they read; what lies between passes stays in cache, in rows that
begin an odd number of cache lines after each other: at 4 kB, as in an image of 1024 pixels, eight of them would fill
all there is of the first-level cache for a column. Most of what the next block reads is prefetched a block before, a
little at a time, so that memory works while this one is computed.

Images are contiguous, of `LANES` pixels or more in a row, and given by the addresses of their float32. Blocks are
counted through all planes, and threads share them; results do not depend on how. The last vector of a row may overlap
the one before. Results of a kernel are its last arguments before the passes.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from percep.kernels.arguments import SystemArguments
from percep.kernels.cpu.compile import compiled, inlined
from percep.kernels.cpu.openmp import share
from percep.kernels.cpu.simd import (
    LANES,
    ROWS,
    across,
    down,
    load,
    places,
    prefetch,
    read,
    reverse,
    splat,
    store,
    total,
    write,
)

T = TypeVar("T")
EDGE = 16
"""Where a row begins in a line, after what is mirrored of it."""
ADJOINT, PRODUCT, ALONG = range(3)
"""What a kernel computes: see `_adjoint_or_product`."""
CACHE_LINE = 16
"""float32 in a cache line: to read a vector that lies in two takes twice as long."""
_ZERO, _HALF, _ONE, _TWO = (np.float32(value) for value in (0, 0.5, 1, 2))
NEW_LANES = np.repeat([_ZERO, _ONE], LANES)
"""From `LANES` minus the overlap on: 0 in lanes that the vector before has, 1 in the others."""


class Passes(NamedTuple):
    """A window's passes over planes of a size.

    Attributes:
        taps: the middle one and those after it.
        down: `(blocks (2 half + ROWS),)`, for each block of rows where the rows begin that it sees, in a ring buffer:
            row i is its `i % ring_rows`-th.
        height, width: of a plane.
        ring_rows, pitch: rows in a ring buffer, and float32 from the beginning of one to that of the next.
        blocks: of `ROWS` rows, the last of which may have fewer.
    """

    taps: tuple[np.float32, ...]
    down: np.ndarray
    height: int
    width: int
    ring_rows: int
    pitch: int
    blocks: int


class Direction(NamedTuple, Generic[T]):
    """The direction of a step of conjugate gradients: `scaled + beta previous`, which a product forms.

    Attributes:
        scaled, previous: the preconditioned residual and the last direction, `(B, C, H, W)`; where beta is 0, nothing
            is read of the latter.
        beta: `(B,)`.
    """

    scaled: T
    previous: T
    beta: T


@compiled
def empty_aligned(count):
    """An array of so many float32, not initialised, that begins with a cache line."""
    memory = np.empty(count + CACHE_LINE, np.float32)
    return memory[-(memory.ctypes.data // memory.itemsize) % CACHE_LINE :]


@inlined
def _copy_rows(ring, values, origin, start, stop, passes):
    """Copies rows `[start, stop)` of a plane into a ring buffer."""
    for row in range(start, stop):
        to, at = row % passes.ring_rows * passes.pitch, origin + row * passes.width
        for first in range(0, passes.width, LANES):
            j = min(first, passes.width - LANES)
            store(ring, to + j, load(values, at + j))


@inlined
def _form_rows(ring, direction, image, origin, start, stop, passes):
    """Rows `[start, stop)` of a plane's new direction, into a ring buffer."""
    beta = read(direction.beta, image)
    for row in range(start, stop):
        to, at = row % passes.ring_rows * passes.pitch, origin + row * passes.width
        for first in range(0, passes.width, LANES):
            j = min(first, passes.width - LANES)
            formed = load(direction.scaled, at + j)
            if beta != _ZERO:
                formed += splat(beta) * load(direction.previous, at + j)
            store(ring, to + j, formed)


@inlined
def pass_down(lines, ring, row, passes):
    """Passes down to the rows of a block."""
    seen = places(passes.down, row // ROWS, passes.taps)
    for first in range(0, passes.width, LANES):
        j = min(first, passes.width - LANES)
        means = down(ring, seen, j, passes.taps)
        for k in range(ROWS):
            store(lines, k * passes.pitch + EDGE + j, means[k])


@inlined
def mirror(lines, passes):
    """Mirrors a block's lines: all, since to read one right after a part of it was written has to wait."""
    for k in range(ROWS):
        first = k * passes.pitch + EDGE
        last = first + passes.width - 1
        for distance in range(1, len(passes.taps), LANES):
            store(lines, first - distance - LANES + 1, reverse(load(lines, first + distance)))
            store(lines, last + distance, reverse(load(lines, last - distance - LANES + 1)))


@inlined
def _pass_across(out, to, line, at, values, ahead, passes):
    """A pass along a line, while a row of `values` is prefetched."""
    for first in range(0, passes.width, LANES):
        j = min(first, passes.width - LANES)
        prefetch(values, ahead + j)
        store(out, to + j, across(line, at + j, passes.taps))


@compiled
def _mean(values, out, passes, start, stop):
    """Blocks `[start, stop)` of `mean`."""
    height, width, pitch, blocks = passes.height, passes.width, passes.pitch, passes.blocks
    half = len(passes.taps) - 1
    ring, lines = empty_aligned(passes.ring_rows * pitch), empty_aligned(ROWS * pitch)
    copied = 0
    for block in range(start, stop):
        row, origin = block % blocks * ROWS, block // blocks * height * width
        if block == start or row == 0:
            copied = max(row - half, 0)
        until = min(row + half + ROWS, height)
        _copy_rows(ring, values, origin, copied, until, passes)
        copied = until
        pass_down(lines, ring, row, passes)
        mirror(lines, passes)
        for k in range(min(ROWS, height - row)):
            ahead = origin + (row + k + half + ROWS) * width
            _pass_across(out, origin + (row + k) * width, lines, k * pitch + EDGE, values, ahead, passes)


@compiled
def _adjoint_or_product(system, direction, images, channels, out, sums, kind, passes, start, stop):
    """Blocks `[start, stop)` of the chosen images' planes: of a `product`, with the sum of `v out` of each row; of a
    product `ALONG` a new direction, which becomes `v`; or of an `ADJOINT`, `out = A' inner`, and nothing else is read
    or written.
    """
    height, width, pitch, blocks = passes.height, passes.width, passes.pitch, passes.blocks
    half = len(passes.taps) - 1
    lines, weighted = empty_aligned(ROWS * pitch), empty_aligned(ROWS * pitch)
    vector_ring, ring = empty_aligned(passes.ring_rows * pitch), empty_aligned(passes.ring_rows * pitch)
    ahead_of = direction.scaled if kind == ALONG else system.vector
    copied = done = 0
    for block in range(start, stop):
        local = block // blocks
        image = images[local // channels]
        row, plane = block % blocks * ROWS, image * channels + local % channels
        origin = plane * height * width
        if block == start or row == 0:
            done = max(row - half, 0) // ROWS * ROWS
            copied = max(done - half, 0)
        while done < min(row + half + ROWS, height):
            count = min(ROWS, height - done)
            if kind != ADJOINT:
                until = min(done + half + ROWS, height)
                if kind == ALONG:
                    _form_rows(vector_ring, direction, image, origin, copied, until, passes)
                else:
                    _copy_rows(vector_ring, system.vector, origin, copied, until, passes)
                copied = until
                pass_down(lines, vector_ring, done, passes)
                mirror(lines, passes)
            for k in range(count):
                line = k * pitch + EDGE
                _weight(weighted, lines, line, system.inner, origin + (done + k) * width, kind, passes)
                _scale_ends(weighted, line, width, _TWO)
            mirror(weighted, passes)
            for k in range(count):
                to = (done + k) % passes.ring_rows * pitch
                ahead = origin + (done + k + half + ROWS) * width
                _pass_across(ring, to, weighted, k * pitch + EDGE, ahead_of, ahead, passes)
                _scale_ends(ring, to, width, _HALF)
                if done + k == 0 or done + k == height - 1:
                    for j in range(to, to + width):
                        ring[j] *= _TWO
            done += ROWS
        _finish(out, sums, plane * height + row, local * height + row, ring, row, vector_ring, system, kind, passes)


@inlined
def _weight(weighted, lines, line, inner, at, kind, passes):
    """A line of `inner`, in a product times the means along the line."""
    for first in range(0, passes.width, LANES):
        j = min(first, passes.width - LANES)
        prefetch(inner, at + ROWS * passes.width + j)
        weight = load(inner, at + j)
        store(weighted, line + j, weight if kind == ADJOINT else across(lines, line + j, passes.taps) * weight)


@inlined
def _scale_ends(row, at, width, factor):
    row[at] *= factor
    row[at + width - 1] *= factor


@inlined
def _finish(out, sums, at, of_sums, ring, row, vector_ring, system, kind, passes):
    """Passes down to the rows of a block, half of them at the borders, and `diagonal v`."""
    width, count = passes.width, min(ROWS, passes.height - row)
    seen = places(passes.down, row // ROWS, passes.taps)
    s0 = s1 = s2 = s3 = splat(_ZERO)
    for first in range(0, width, LANES):
        j = min(first, width - LANES)
        new = load(NEW_LANES, LANES + j - first)
        m0, m1, m2, m3 = down(ring, seen, j, passes.taps)
        s0 += new * _finished(out, at * width + j, m0, vector_ring, row, j, system, kind, passes)
        if count > 1:
            s1 += new * _finished(out, (at + 1) * width + j, m1, vector_ring, row + 1, j, system, kind, passes)
        if count > 2:
            s2 += new * _finished(out, (at + 2) * width + j, m2, vector_ring, row + 2, j, system, kind, passes)
        if count > 3:
            s3 += new * _finished(out, (at + 3) * width + j, m3, vector_ring, row + 3, j, system, kind, passes)
    if kind != ADJOINT:
        each = total(s0), total(s1), total(s2), total(s3)
        for k in range(count):
            write(sums, of_sums + k, each[k])


@inlined
def _finished(out, to, mean, vector_ring, row, j, system, kind, passes):
    """Stores a vector of `out`, and of a new direction; returns it, in a product times `v`."""
    product = mean * splat(_HALF if row == 0 or row == passes.height - 1 else _ONE)
    if kind == ADJOINT:
        store(out, to, product)
        return product
    v = load(vector_ring, row % passes.ring_rows * passes.pitch + j)
    if kind == ALONG:
        store(system.vector, to, v)
    prefetch(system.diagonal, to + ROWS * passes.width)
    product = product + load(system.diagonal, to) * v
    store(out, to, product)
    return v * product


@compiled
def mean(values, out, passes, planes, team):
    """Local means `out` of planes `values`."""
    share(_mean, (values, out, passes), planes * passes.blocks, team)


@compiled
def adjoint(maps, out, passes, planes, team):
    """`A'` of planes of windows `maps`: planes `out` of pixels."""
    system, sums = SystemArguments(maps, maps, maps), np.empty(0, np.float32)
    of_adjoint = system, Direction(maps, maps, maps), np.arange(planes), 1, out, sums, ADJOINT, passes
    share(_adjoint_or_product, of_adjoint, planes * passes.blocks, team)


@compiled
def product(system, out, curvature, images, channels, passes, planes, team):
    """`out = diagonal v + A' (inner A v)`, and `curvature = <v, out>` of the chosen `images`, of so many `channels`.

    Their planes are counted; of other images nothing is read or written.
    """
    vector = system.vector
    _product(system, Direction(vector, vector, vector), images, channels, out, curvature, PRODUCT, passes, planes, team)


@compiled
def product_along(system, direction, out, curvature, images, channels, passes, planes, team):
    """`product` along a new direction, which is written to the system's vector."""
    _product(system, direction, images, channels, out, curvature, ALONG, passes, planes, team)


@inlined
def _product(system, direction, images, channels, out, curvature, kind, passes, planes, team):
    sums = np.empty(planes * passes.height, np.float32)
    of_product = system, direction, images, channels, out, sums, kind, passes
    share(_adjoint_or_product, of_product, planes * passes.blocks, team)
    add_rows_of_chosen(curvature, sums, images, channels * passes.height)


@compiled
def add_rows_of_chosen(out, sums, images, count):
    """Adds the sums of rows, of which every one of the chosen images has so many."""
    for k in range(len(images)):
        added = 0.0
        for row in range(k * count, (k + 1) * count):
            added += sums[row]
        write(out, images[k], np.float32(added))


@compiled
def add_rows(out, sums, count):
    """Adds the sums of rows, of which every image has so many."""
    add_rows_of_chosen(out, sums, np.arange(len(sums) // count), count)
