"""Numba kernels for windows of an odd number of symmetric taps, mirrored at the borders, of stride 1: SSIM's own.

A mean over such a window is its own adjoint but for the borders: on the even continuation of a line it is a
symmetric convolution, and in that continuation a pixel at a border stands once, any other twice. So `A' = D A D^-1`,
where D halves what lies at a border.

Rows are done two at a time, which share what they read; what lies between passes stays in cache. Arrays are contiguous
and flat. Pairs of rows are counted through all planes, and a call does those of `[start, stop)`, so that threads share
the work; what a row becomes does not depend on them.
"""

import math
from typing import NamedTuple

import numpy as np

from percep.kernels.jit import compiled, in_order, inlined

GROUP = 6
"""Pairs of taps that are added at a time."""
EDGE = 16
"""Where a row begins in a line, after what is mirrored of it."""
CACHE_LINE = 16
"""float32 in a cache line: to read a vector that lies in two takes twice as long."""
_HALF, _ONE, _TWO, _ROOT = (np.float32(value) for value in (0.5, 1, 2, math.sqrt(2)))
_LN2_HIGH, _LN2_LOW = np.float32(355 / 512), np.float32(math.log(2) - 355 / 512)
_LOG2_E = np.float32(1 / math.log(2))
_BIAS, _SHIFT, _FRACTION, _BITS_OF_ONE = (np.int32(value) for value in (127, 23, 0x7FFFFF, 0x3F800000))
# Of atanh and of exp at 0.
_A3, _A5, _A7, _A9 = (np.float32(1 / k) for k in (3, 5, 7, 9))
_E2, _E3, _E4, _E5, _E6, _E7 = (np.float32(1 / math.factorial(k)) for k in range(2, 8))


class Passes(NamedTuple):
    """A window's passes over planes of a size.

    Attributes:
        taps: `(K,)`, half the middle one and those after it, then zeros; K is a multiple of `GROUP`.
        across: `(2 K,)`, for each group the places of the first window's pixels from the middle on, and back.
        down: `(pairs, 14 K / 6)`, for each pair of rows and each group where in a plane the seven rows begin that the
            pair sees above, and below.
        held_down: the same where row i is the `i % held`-th of `room` pixels each.
        half: taps before the middle one.
        height, width: of a plane.
        held, room: how many rows are held at a time, and from the beginning of one to that of the next.
    """

    taps: np.ndarray
    across: np.ndarray
    down: np.ndarray
    held_down: np.ndarray
    half: int
    height: int
    width: int
    held: int
    room: int


class Limits(NamedTuple):
    """Constants of an update.

    Attributes:
        zero: 0.
        tiny: least ratio whose logarithm is taken.
        violation: most of a logarithm, either way.
        forgotten, repeated: least and most of a last step that is repeated.
        step: most of a step, either way.
    """

    zero: np.float32
    tiny: np.float32
    violation: np.float32
    forgotten: np.float32
    repeated: np.float32
    step: np.float32


@compiled
def _zeros(count):
    """So many, from the beginning of a cache line on."""
    room = np.zeros(count + CACHE_LINE, np.float32)
    return room[-(room.ctypes.data // room.itemsize) % CACHE_LINE :]


@compiled
def _line(passes):
    """Zeros for a row and what is mirrored of it."""
    return _zeros(passes.width + 2 * EDGE)


@compiled
def _rows(passes):
    """Zeros for the rows that are held."""
    return _zeros(passes.held * passes.room)


@compiled
def _down(first, second, values, places, taps, count):
    """Passes down to two neighbouring rows. What both need is read before anything is written, so that it is once."""
    for group in range(len(taps) // GROUP):
        t0, t1, t2 = taps[GROUP * group], taps[GROUP * group + 1], taps[GROUP * group + 2]
        t3, t4, t5 = taps[GROUP * group + 3], taps[GROUP * group + 4], taps[GROUP * group + 5]
        at = places[2 * (GROUP + 1) * group :]
        a0, a1 = values[at[0] : at[0] + count], values[at[1] : at[1] + count]
        a2, a3 = values[at[2] : at[2] + count], values[at[3] : at[3] + count]
        a4, a5 = values[at[4] : at[4] + count], values[at[5] : at[5] + count]
        a6, b0 = values[at[6] : at[6] + count], values[at[7] : at[7] + count]
        b1, b2 = values[at[8] : at[8] + count], values[at[9] : at[9] + count]
        b3, b4 = values[at[10] : at[10] + count], values[at[11] : at[11] + count]
        b5, b6 = values[at[12] : at[12] + count], values[at[13] : at[13] + count]
        if group == 0:
            for j in range(count):
                u0, u1, u2, u3, u4, u5, u6 = a6[j], a5[j], a4[j], a3[j], a2[j], a1[j], a0[j]
                d0, d1, d2, d3, d4, d5, d6 = b0[j], b1[j], b2[j], b3[j], b4[j], b5[j], b6[j]
                first[j] = (
                    t0 * (u1 + d0) + t1 * (u2 + d1) + t2 * (u3 + d2) + t3 * (u4 + d3) + t4 * (u5 + d4) + t5 * (u6 + d5)
                )
                second[j] = (
                    t0 * (u0 + d1) + t1 * (u1 + d2) + t2 * (u2 + d3) + t3 * (u3 + d4) + t4 * (u4 + d5) + t5 * (u5 + d6)
                )
        else:
            for j in range(count):
                u0, u1, u2, u3, u4, u5, u6 = a6[j], a5[j], a4[j], a3[j], a2[j], a1[j], a0[j]
                d0, d1, d2, d3, d4, d5, d6 = b0[j], b1[j], b2[j], b3[j], b4[j], b5[j], b6[j]
                first[j] += (
                    t0 * (u1 + d0) + t1 * (u2 + d1) + t2 * (u3 + d2) + t3 * (u4 + d3) + t4 * (u5 + d4) + t5 * (u6 + d5)
                )
                second[j] += (
                    t0 * (u0 + d1) + t1 * (u1 + d2) + t2 * (u2 + d3) + t3 * (u3 + d4) + t4 * (u4 + d5) + t5 * (u5 + d6)
                )


@compiled
def _across(out, line, places, taps, count):
    """A pass along a line whose first pixel is the first that the first window sees."""
    for group in range(len(taps) // GROUP):
        t0, t1, t2 = taps[GROUP * group], taps[GROUP * group + 1], taps[GROUP * group + 2]
        t3, t4, t5 = taps[GROUP * group + 3], taps[GROUP * group + 4], taps[GROUP * group + 5]
        at = places[2 * GROUP * group :]
        a0, a1, a2 = line[at[0] : at[0] + count], line[at[1] : at[1] + count], line[at[2] : at[2] + count]
        a3, a4, a5 = line[at[3] : at[3] + count], line[at[4] : at[4] + count], line[at[5] : at[5] + count]
        b0, b1, b2 = line[at[6] : at[6] + count], line[at[7] : at[7] + count], line[at[8] : at[8] + count]
        b3, b4, b5 = line[at[9] : at[9] + count], line[at[10] : at[10] + count], line[at[11] : at[11] + count]
        if group == 0:
            for j in range(count):
                out[j] = (
                    t0 * (a0[j] + b0[j]) + t1 * (a1[j] + b1[j]) + t2 * (a2[j] + b2[j])
                    + t3 * (a3[j] + b3[j]) + t4 * (a4[j] + b4[j]) + t5 * (a5[j] + b5[j])
                )  # fmt: skip
        else:
            for j in range(count):
                out[j] += (
                    t0 * (a0[j] + b0[j]) + t1 * (a1[j] + b1[j]) + t2 * (a2[j] + b2[j])
                    + t3 * (a3[j] + b3[j]) + t4 * (a4[j] + b4[j]) + t5 * (a5[j] + b5[j])
                )  # fmt: skip


@inlined
def _average(out, next_out, line, next_line, across, taps, half, width):
    """Local means along two rows, which are mirrored on the way.

    Neither is read in vectors right after single pixels were written, which would have to wait for them.
    """
    _mirror(line, half, width)
    _mirror(next_line, half, width)
    _across(out, line, across, taps, width)
    _across(next_out, next_line, across, taps, width)


@inlined
def _mirror(line, half, width):
    last = EDGE + width - 1
    for distance in range(1, half + 1):
        line[EDGE - distance] = line[EDGE + distance]
        line[last + distance] = line[last - distance]


@compiled
def mean(values, out, passes, start, stop):
    """Local means `out` of planes `values`."""
    height, width, half, pairs = passes.height, passes.width, passes.half, len(passes.down)
    across, taps = passes.across, passes.taps
    first, second, unused = _line(passes), _line(passes), _line(passes)
    for place in range(start, stop):
        plane, row = place // pairs, place % pairs * 2
        source, target = values[plane * height * width :], out[(plane * height + row) * width :]
        _down(first[EDGE:], second[EDGE:], source, passes.down[row // 2], taps, width)
        following = target[width:] if row + 1 < height else unused
        _average(target, following, first, second, across, taps, half, width)


@compiled
def spread(values, diagonal, inner, out, sums, whole, passes, start, stop):
    """`out = diagonal v + A' (inner A v)`, and `sums` of `v out`, one for each row.

    Where it is not `whole`, `out = A' inner`, and nothing else is read or written.
    """
    height, width, half, pairs = passes.height, passes.width, passes.half, len(passes.down)
    across, taps = passes.across, passes.taps
    first, second, unused = _line(passes), _line(passes), _line(passes)
    rows = _rows(passes)
    done = 0
    for place in range(start, stop):
        plane, row = place // pairs, place % pairs * 2
        source, prices = values[plane * height * width :], inner[plane * height * width :]
        if place == start or row == 0:
            done = max(row - half, 0) // 2 * 2
        while done < min(row + half + 2, height):
            following = min(done + 1, height - 1)
            across_it, across_next = rows[done % passes.held * passes.room :], unused
            if following > done:
                across_next = rows[following % passes.held * passes.room :]
            price, next_price = prices[done * width :], prices[following * width :]
            if whole:
                _down(first[EDGE:], second[EDGE:], source, passes.down[done // 2], taps, width)
                _average(across_it, across_next, first, second, across, taps, half, width)
                _multiply(first[EDGE:], across_it, price, width)
                _multiply(second[EDGE:], across_next, next_price, width)
            else:
                _copy(first[EDGE:], price, width)
                _copy(second[EDGE:], next_price, width)
            _double_ends(first[EDGE:], width)
            _double_ends(second[EDGE:], width)
            _average(across_it, across_next, first, second, across, taps, half, width)
            _halve_ends(across_it, width)
            _halve_ends(across_next, width)
            if done == 0 or done == height - 1:
                _double(across_it, width)
            if following == height - 1:
                _double(across_next, width)
            done += 2
        _down(first, second, rows, passes.held_down[row // 2], taps, width)
        at = plane * height + row
        total = _finish(out, first, values, diagonal, at * width, row == 0 or row == height - 1, whole, width)
        if whole:
            sums[at] = total
        if row + 1 < height:
            total = _finish(out, second, values, diagonal, (at + 1) * width, row + 1 == height - 1, whole, width)
            if whole:
                sums[at + 1] = total


@inlined
def _copy(out, row, width):
    for j in range(width):
        out[j] = row[j]


@inlined
def _multiply(out, row, price, width):
    for j in range(width):
        out[j] = row[j] * price[j]


@inlined
def _double(row, width):
    for j in range(width):
        row[j] += row[j]


@inlined
def _double_ends(row, width):
    row[0] *= 2
    row[width - 1] *= 2


@inlined
def _halve_ends(row, width):
    row[0] *= 0.5
    row[width - 1] *= 0.5


@inlined
def _finish(out, row, values, diagonal, at, border, whole, width):
    """What the passes down have made of a row, half of it at the border, and `diagonal v`; returns `<v, out>`."""
    result, v, a = out[at : at + width], values[at : at + width], diagonal[at : at + width]
    total = np.float32(0)
    if border:
        for j in range(width):
            row[j] *= 0.5
    if whole:
        for j in range(width):
            product = row[j] + a[j] * v[j]
            result[j] = product
            total += v[j] * product
    else:
        _copy(result, row, width)
    return total


@compiled
def update(
    delta, reference, mean_x, variance_x, first_k, second_k, k_strides, first_radius, second_radius, first_price,
    second_price, first_last, second_last, weights_of_mean, weights_of_variance, eta, momentum, first_raised,
    second_raised, first_step, second_step, sums, limits, channels, floored, averaged, passes, start, stop,
):  # fmt: skip
    """One step of the floor's multipliers and the ellipsoid's norm, as `percep.solvers.dual` defines them.

    Prices and steps are written where `floored`, sums of the norm, one for each row, where `averaged`. What is not
    asked for is not read either.
    """
    height, width, half, pairs = passes.height, passes.width, passes.half, len(passes.down)
    across, taps = passes.across, passes.taps
    first, second = _line(passes), _line(passes)
    mean, next_mean = _line(passes), _line(passes)
    square, next_square = _line(passes), _line(passes)
    cross, next_cross = _line(passes), _line(passes)
    squares, products = _rows(passes), _rows(passes)
    read = 0
    for place in range(start, stop):
        plane, row = place // pairs, place % pairs * 2
        image = plane // channels
        d, x = delta[plane * height * width :], reference[plane * height * width :]
        if place == start or row == 0:
            read = max(row - half, 0)
        while read < min(row + half + 2, height):
            held = read % passes.held * passes.room
            _multiply(squares[held:], d[read * width :], d[read * width :], width)
            if floored:
                _multiply(products[held:], d[read * width :], x[read * width :], width)
            read += 1
        _down(first[EDGE:], second[EDGE:], d, passes.down[row // 2], taps, width)
        _average(mean, next_mean, first, second, across, taps, half, width)
        _down(first[EDGE:], second[EDGE:], squares, passes.held_down[row // 2], taps, width)
        _average(square, next_square, first, second, across, taps, half, width)
        if floored:
            _down(first[EDGE:], second[EDGE:], products, passes.held_down[row // 2], taps, width)
            _average(cross, next_cross, first, second, across, taps, half, width)
        for which in range(min(2, height - row)):
            at = (plane * height + row + which) * width
            to = at + width
            mean_d, second_d, cross_d = (mean, square, cross) if which == 0 else (next_mean, next_square, next_cross)
            if averaged:
                of_mean, of_variance = weights_of_mean[at:to], weights_of_variance[at:to]
                sums[plane * height + row + which] = _spent(mean_d, second_d, of_mean, of_variance, limits)
            if not floored:
                continue
            m_x, v_x = mean_x[at:to], variance_x[at:to]
            k_at = image * k_strides[0] + (at - image * channels * height * width) * k_strides[1]
            if k_strides[1] == 0:
                _centre(mean_d, second_d, cross_d, m_x, v_x, first_k[k_at], second_k[k_at], width)
            else:
                _centre_each(mean_d, second_d, cross_d, m_x, v_x, first_k[k_at:], second_k[k_at:], width)
            _raise(
                second_d, first_radius[at:to], first_price[at:to], first_last[at:to], eta[image], momentum[image],
                limits, first_raised[at:to], first_step[at:to],
            )  # fmt: skip
            _raise(
                cross_d, second_radius[at:to], second_price[at:to], second_last[at:to], eta[image], momentum[image],
                limits, second_raised[at:to], second_step[at:to],
            )  # fmt: skip


@compiled
def _spent(mean, second, of_mean, of_variance, limits):
    """The ellipsoid's norm of a row."""
    total = limits.zero
    for j in range(len(of_mean)):
        variance = second[j] - mean[j] * mean[j]
        variance = limits.zero if variance < limits.zero else variance
        total += of_mean[j] * mean[j] * mean[j] + of_variance[j] * variance
    return total


@compiled
def _centre(mean, second, cross, m_x, v_x, first_k, second_k, width):
    """Replaces moments by `|K d - c|^2` of a row: the second by the luminance's, the cross by the contrast's."""
    for j in range(width):
        covariance = cross[j] - mean[j] * m_x[j]
        moved = second[j] - mean[j] * mean[j] - second_k * (covariance + covariance) + second_k * second_k * v_x[j]
        shift = mean[j] - first_k * m_x[j]
        cross[j], second[j] = moved, shift * shift


@compiled
def _centre_each(mean, second, cross, m_x, v_x, first_k, second_k, width):
    """`_centre` with k of its own for each window."""
    for j in range(width):
        k = second_k[j]
        covariance = cross[j] - mean[j] * m_x[j]
        moved = second[j] - mean[j] * mean[j] - k * (covariance + covariance) + k * k * v_x[j]
        shift = mean[j] - first_k[j] * m_x[j]
        cross[j], second[j] = moved, shift * shift


@compiled
def _raise(squares, radius, price, last, eta, momentum, limits, raised, steps):
    """The step of a row of multipliers whose constraints are at `squares`, and where it leads."""
    for j in range(len(price)):
        ratio = squares[j] / (radius[j] * radius[j])
        ratio = limits.tiny if ratio < limits.tiny else ratio
        violation = min(max(_log(ratio), -limits.violation), limits.violation)
        kept = last[j] if last[j] * violation > limits.zero else limits.zero
        kept = min(max(kept, limits.forgotten), limits.repeated)
        step = min(max(eta * violation + momentum * kept, -limits.step), limits.step)
        lost = math.isnan(ratio)  # which must not be taken for a number
        steps[j] = ratio if lost else step
        raised[j] = ratio if lost else price[j] * _exp(step)


@in_order
def _log(value):
    """The logarithm of a normal positive number, to 2e-7 of 1 or of the result, whichever is larger.

    It is `e log 2 + 2 atanh(s)` with `value = 2^e (1 + s) / (1 - s)` and |s| < 0.172.
    """
    bits = np.float32(value).view(np.int32)
    exponent = np.float32((bits >> _SHIFT) - _BIAS)
    fraction = np.int32((bits & _FRACTION) | _BITS_OF_ONE).view(np.float32)
    above = fraction > _ROOT
    fraction = _HALF * fraction if above else fraction
    exponent = exponent + _ONE if above else exponent
    s = (fraction - _ONE) / (fraction + _ONE)
    q = s * s
    return exponent * _LN2_HIGH + (
        exponent * _LN2_LOW + _TWO * s * (_ONE + q * (_A3 + q * (_A5 + q * (_A7 + q * _A9))))
    )


@in_order
def _exp(value):
    """The exponential of a number between -80 and 80, to 2e-7 of it: `2^n exp(r)` with |r| < 0.347."""
    n = np.floor(value * _LOG2_E + _HALF)
    r = (value - n * _LN2_HIGH) - n * _LN2_LOW
    small = _ONE + r * (_ONE + r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * (_E6 + r * _E7))))))
    return small * np.int32((np.int32(n) + _BIAS) << _SHIFT).view(np.float32)
