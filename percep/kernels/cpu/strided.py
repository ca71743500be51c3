"""Numba kernels for windows of any taps, strides and padding on the CPU: local means and their adjoints.

The definition is in `percep.windows`. Arrays are contiguous and flat. A plane is worked through row by row, so that
what lies between the passes stays in cache. Rows, of windows or of pixels, are counted through all planes, and threads
share them; results do not depend on how.
"""

from typing import NamedTuple

import numpy as np

from percep.kernels.cpu.compile import compiled
from percep.kernels.cpu.openmp import share

GROUP = 6
"""Taps that are added at a time: passes are filled up to a multiple of it."""


class Down(NamedTuple):
    """A pass down the columns: row r is the sum over k of `taps[r, k]` times the row that begins at `places[r, k]`.

    Attributes:
        places: `(rows, K)`, K a multiple of `GROUP`; in a plane, or in a ring buffer, of which row i is the
            `i % ring_rows`-th.
        taps: likewise.
        begin, end: `(rows,)`; row r needs rows `[begin[r], end[r])`. Neither decreases.
        ring_rows: rows in a ring buffer. Behind them lies a row of zeros.
        pitch: from the beginning of a row to that of the next.
    """

    places: np.ndarray
    taps: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    ring_rows: int
    pitch: int


class Across(NamedTuple):
    """A pass along a row.

    Attributes:
        places, taps: `(K,)`, K a multiple of `GROUP`.
        reversed_taps: from last to first.
        size: how many taps there are.
        stride: of the windows.
        before, after: how many pixels are mirrored at either end.
        mirrored_to, mirrored_from, mirrored_taps: what the mirrored pixels add in the adjoint: to which pixels, from
            which places, with which weights.
        width, windows: pixels and windows in a row.
    """

    places: np.ndarray
    taps: np.ndarray
    reversed_taps: np.ndarray
    size: int
    stride: int
    before: int
    after: int
    mirrored_to: np.ndarray
    mirrored_from: np.ndarray
    mirrored_taps: np.ndarray
    width: int
    windows: int


@compiled
def _weighted(out, values, places, taps, count):
    """`out[j] = sum_k taps[k] values[places[k] + j]`."""
    for group in range(0, len(places), GROUP):
        t0, t1, t2 = taps[group], taps[group + 1], taps[group + 2]
        t3, t4, t5 = taps[group + 3], taps[group + 4], taps[group + 5]
        v0 = values[places[group] : places[group] + count]
        v1 = values[places[group + 1] : places[group + 1] + count]
        v2 = values[places[group + 2] : places[group + 2] + count]
        v3 = values[places[group + 3] : places[group + 3] + count]
        v4 = values[places[group + 4] : places[group + 4] + count]
        v5 = values[places[group + 5] : places[group + 5] + count]
        if group == 0:
            for j in range(count):
                out[j] = t0 * v0[j] + t1 * v1[j] + t2 * v2[j] + t3 * v3[j] + t4 * v4[j] + t5 * v5[j]
        else:
            for j in range(count):
                out[j] += t0 * v0[j] + t1 * v1[j] + t2 * v2[j] + t3 * v3[j] + t4 * v4[j] + t5 * v5[j]


@compiled
def _line(across):
    """Zeros, as many as a row and its mirrored ends need, or its windows and the zeros around them."""
    return np.zeros(across.width + 3 * across.size, np.float32)


@compiled
def _ring(down):
    """A ring buffer, and the row of zeros behind it."""
    return np.zeros((down.ring_rows + 1) * down.pitch, np.float32)


@compiled
def _mean_across(out, line, spare, across):
    """Local means along a row that `line` holds from `before` on; beside it, `line` is overwritten."""
    first, last = across.before, across.before + across.width - 1
    for distance in range(1, across.before + 1):
        line[first - distance] = line[first + distance]
    for distance in range(1, across.after + 1):
        line[last + distance] = line[last - distance]
    if across.stride == 1:
        _weighted(out, line, across.places, across.taps, across.windows)
    else:
        _weighted(spare, line, across.places, across.taps, (across.windows - 1) * across.stride + 1)
        for j in range(across.windows):
            out[j] = spare[j * across.stride]


@compiled
def _adjoint_across(out, line, across):
    """The adjoint of `_mean_across`: `line` holds windows from `size - 1` on, `stride` apart, zeros elsewhere."""
    _weighted(out, line[across.before :], across.places, across.reversed_taps, across.width)
    for k in range(len(across.mirrored_to)):
        out[across.mirrored_to[k]] += across.mirrored_taps[k] * line[across.mirrored_from[k]]


@compiled
def _put_windows(line, row, across):
    """Puts a row of windows where `_adjoint_across` looks for them."""
    inner = line[across.size - 1 :]
    if across.stride == 1:
        for j in range(across.windows):
            inner[j] = row[j]
    else:
        for j in range(across.windows):
            inner[j * across.stride] = row[j]


@compiled
def _mean(values, out, height, down, across, start, stop):
    """Local means `out` of planes `values`: rows of windows."""
    rows = len(down.end)
    line, spare = _line(across), _line(across)
    for place in range(start, stop):
        plane, row = place // rows, place % rows
        source = values[plane * height * across.width :]
        _weighted(line[across.before :], source, down.places[row], down.taps[row], across.width)
        _mean_across(out[place * across.windows :], line, spare, across)


@compiled
def _adjoint(maps, out, rows, back, across, start, stop):
    """`A'` of planes of windows `maps`, which have so many rows: rows of pixels."""
    height, width, windows = len(back.end), across.width, across.windows
    line = _line(across)
    ring = _ring(back)
    done = 0
    for place in range(start, stop):
        plane, row = place // height, place % height
        if place == start or row == 0:
            done = back.begin[row]
        while done < back.end[row]:
            _put_windows(line, maps[(plane * rows + done) * windows :], across)
            _adjoint_across(ring[done % back.ring_rows * back.pitch :], line, across)
            done += 1
        _weighted(out[place * width :], ring, back.places[row], back.taps[row], width)


@compiled
def mean(values, out, height, down, across, planes, team):
    """Local means `out` of planes `values`, of so many rows."""
    share(_mean, (values, out, height, down, across), planes * len(down.end), team)


@compiled
def adjoint(maps, out, rows, back, across, planes, team):
    """`A'` of planes of windows `maps`, which have so many rows: planes `out` of pixels."""
    share(_adjoint, (maps, out, rows, back, across), planes * len(back.end), team)
