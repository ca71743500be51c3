"""Numba kernels for windows of an odd number of symmetric taps, mirrored at the borders, of stride 1: SSIM's own.

A mean over such a window is its own adjoint but for the borders: on the even continuation of a line it is a
symmetric convolution, and in that continuation a pixel at a border stands once, any other twice. So `A' = D A D^-1`,
where D halves what lies at a border.

Rows are done in blocks of `ROWS`, which share what they read; what lies between passes stays in cache, in rows that
begin an odd number of cache lines after each other: at 4 kB, as in an image of 1024 pixels, eight of them would fill
all there is of the first-level cache for a column. Most of what the next block reads is asked for a block before, a
little at a time, so that memory works while this one is computed.

Images are contiguous, of `LANES` pixels or more in a row, and given by the addresses of their float32. Blocks are
counted through all planes, and threads share them; what a row becomes does not depend on how. The last vector of a row
may overlap the one before.
"""

from typing import NamedTuple

import numpy as np

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
    splat,
    store,
    total,
    turned,
    write,
)

EDGE = 16
"""Where a row begins in a line, after what is mirrored of it."""
CACHE_LINE = 16
"""float32 in a cache line: to read a vector that lies in two takes twice as long."""
_ZERO, _HALF, _ONE, _TWO = (np.float32(value) for value in (0, 0.5, 1, 2))
FRESH = np.repeat([_ZERO, _ONE], LANES)  # what is not in the vector before, from LANES minus the overlap on


class Passes(NamedTuple):
    """A window's passes over planes of a size.

    Attributes:
        taps: the middle one and those after it.
        down: `(blocks (2 half + ROWS),)`, for each block of rows where the rows begin that it sees: row i is held as
            the `i % held`-th of `room` pixels each.
        height, width: of a plane.
        held, room: how many rows are held at a time, and from the beginning of one to that of the next.
        blocks: of `ROWS` rows, the last of which may have fewer.
    """

    taps: tuple[np.float32, ...]
    down: np.ndarray
    height: int
    width: int
    held: int
    room: int
    blocks: int


@compiled
def room_for(count):
    """Room for so many, from the beginning of a cache line on."""
    room = np.empty(count + CACHE_LINE, np.float32)
    return room[-(room.ctypes.data // room.itemsize) % CACHE_LINE :]


@inlined
def _hold(rows, values, origin, since, until, passes):
    """Copies rows of a plane to where they are held."""
    for row in range(since, until):
        to, at = row % passes.held * passes.room, origin + row * passes.width
        for first in range(0, passes.width, LANES):
            j = min(first, passes.width - LANES)
            store(rows, to + j, load(values, at + j))


@inlined
def pass_down(lines, rows, row, passes):
    """Passes down to the rows of a block."""
    seen = places(passes.down, row // ROWS, passes.taps)
    for first in range(0, passes.width, LANES):
        j = min(first, passes.width - LANES)
        means = down(rows, seen, j, passes.taps)
        for k in range(ROWS):
            store(lines, k * passes.room + EDGE + j, means[k])


@inlined
def mirror(lines, passes):
    """Mirrors a block's lines: all, since to read one right after a part of it was written has to wait."""
    for k in range(ROWS):
        first = k * passes.room + EDGE
        last = first + passes.width - 1
        for distance in range(1, len(passes.taps), LANES):
            store(lines, first - distance - LANES + 1, turned(load(lines, first + distance)))
            store(lines, last + distance, turned(load(lines, last - distance - LANES + 1)))


@inlined
def _across(out, to, line, at, values, ahead, passes):
    """A pass along a line, while a row of `values` is asked for."""
    for first in range(0, passes.width, LANES):
        j = min(first, passes.width - LANES)
        prefetch(values, ahead + j)
        store(out, to + j, across(line, at + j, passes.taps))


@compiled
def _mean(values, out, passes, start, stop):
    """Local means `out` of planes `values`."""
    height, width, room, blocks = passes.height, passes.width, passes.room, passes.blocks
    half = len(passes.taps) - 1
    rows, lines = room_for(passes.held * room), room_for(ROWS * room)
    taken = 0
    for place in range(start, stop):
        row, origin = place % blocks * ROWS, place // blocks * height * width
        if place == start or row == 0:
            taken = max(row - half, 0)
        until = min(row + half + ROWS, height)
        _hold(rows, values, origin, taken, until, passes)
        taken = until
        pass_down(lines, rows, row, passes)
        mirror(lines, passes)
        for k in range(min(ROWS, height - row)):
            ahead = origin + (row + k + half + ROWS) * width
            _across(out, origin + (row + k) * width, lines, k * room + EDGE, values, ahead, passes)


@compiled
def _spread(values, diagonal, inner, out, sums, whole, passes, start, stop):
    """`out = diagonal v + A' (inner A v)`, and `sums` of `v out`, one for each row.

    Where it is not `whole`, `out = A' inner`, and nothing else is read or written.
    """
    height, width, room, held, blocks = passes.height, passes.width, passes.room, passes.held, passes.blocks
    half = len(passes.taps) - 1
    lines, priced = room_for(ROWS * room), room_for(ROWS * room)
    of_values, rows = room_for(held * room), room_for(held * room)
    taken = done = 0
    for place in range(start, stop):
        row, origin = place % blocks * ROWS, place // blocks * height * width
        if place == start or row == 0:
            done = max(row - half, 0) // ROWS * ROWS
            taken = max(done - half, 0)
        while done < min(row + half + ROWS, height):
            count = min(ROWS, height - done)
            if whole:
                until = min(done + half + ROWS, height)
                _hold(of_values, values, origin, taken, until, passes)
                taken = until
                pass_down(lines, of_values, done, passes)
                mirror(lines, passes)
            for k in range(count):
                line = k * room + EDGE
                _price(priced, lines, line, inner, origin + (done + k) * width, whole, passes)
                _scale_ends(priced, line, width, _TWO)
            mirror(priced, passes)
            for k in range(count):
                to = (done + k) % held * room
                ahead = origin + (done + k + half + ROWS) * width
                _across(rows, to, priced, k * room + EDGE, values, ahead, passes)
                _scale_ends(rows, to, width, _HALF)
                if done + k == 0 or done + k == height - 1:
                    for j in range(to, to + width):
                        rows[j] *= _TWO
            done += ROWS
        _finish(out, sums, place // blocks * height + row, rows, row, of_values, diagonal, whole, passes)


@inlined
def _price(priced, lines, line, inner, at, whole, passes):
    """A line's price, where it is `whole` times the means along the line."""
    for first in range(0, passes.width, LANES):
        j = min(first, passes.width - LANES)
        prefetch(inner, at + ROWS * passes.width + j)
        price = load(inner, at + j)
        store(priced, line + j, across(lines, line + j, passes.taps) * price if whole else price)


@inlined
def _scale_ends(row, at, width, factor):
    row[at] *= factor
    row[at + width - 1] *= factor


@inlined
def _finish(out, sums, at, rows, row, of_values, diagonal, whole, passes):
    """Passes down to the rows of a block, half of them at the borders, and `diagonal v`."""
    width, count = passes.width, min(ROWS, passes.height - row)
    seen = places(passes.down, row // ROWS, passes.taps)
    s0 = s1 = s2 = s3 = splat(_ZERO)
    for first in range(0, width, LANES):
        j = min(first, width - LANES)
        fresh = load(FRESH, LANES + j - first)
        m0, m1, m2, m3 = down(rows, seen, j, passes.taps)
        s0 += fresh * _finished(out, at * width + j, m0, of_values, row, j, diagonal, whole, passes)
        if count > 1:
            s1 += fresh * _finished(out, (at + 1) * width + j, m1, of_values, row + 1, j, diagonal, whole, passes)
        if count > 2:
            s2 += fresh * _finished(out, (at + 2) * width + j, m2, of_values, row + 2, j, diagonal, whole, passes)
        if count > 3:
            s3 += fresh * _finished(out, (at + 3) * width + j, m3, of_values, row + 3, j, diagonal, whole, passes)
    if whole:
        each = total(s0), total(s1), total(s2), total(s3)
        for k in range(count):
            write(sums, at + k, each[k])


@inlined
def _finished(out, to, mean, of_values, row, j, diagonal, whole, passes):
    """Writes a vector of `out`; returns it times `v`, where it is `whole`."""
    product = mean * splat(_HALF if row == 0 or row == passes.height - 1 else _ONE)
    if not whole:
        store(out, to, product)
        return product
    v = load(of_values, row % passes.held * passes.room + j)
    prefetch(diagonal, to + ROWS * passes.width)
    product = product + load(diagonal, to) * v
    store(out, to, product)
    return v * product


@compiled
def mean(values, out, passes, planes, team):
    """Local means `out` of planes `values`."""
    share(_mean, (values, out, passes), planes * passes.blocks, team)


@compiled
def adjoint(maps, out, passes, planes, team):
    """`A'` of planes of windows `maps`: planes `out` of pixels."""
    sums = np.empty(0, np.float32)
    share(_spread, (maps, maps, maps, out, sums, False, passes), planes * passes.blocks, team)


@compiled
def product(values, diagonal, inner, out, curvature, channels, passes, planes, team):
    """`out = diagonal v + A' (inner A v)`, and `curvature = <v, out>` of each image, of so many `channels`."""
    sums = np.empty(planes * passes.height, np.float32)
    share(_spread, (values, diagonal, inner, out, sums, True, passes), planes * passes.blocks, team)
    add_rows(curvature, sums, channels * passes.height)


@compiled
def add_rows(out, sums, count):
    """Adds the sums of rows, of which every image has so many."""
    for image in range(len(sums) // count):
        whole = 0.0
        for row in range(image * count, (image + 1) * count):
            whole += sums[row]
        write(out, image, np.float32(whole))
