"""Numba kernels for windows of an odd number of symmetric taps, mirrored at the borders, of stride 1: SSIM's own.

A mean over such a window is its own adjoint but for the borders: on the even continuation of a line it is a
symmetric convolution, and in that continuation a pixel at a border stands once, any other twice. So `A' = D A D^-1`,
where D halves what lies at a border.

Rows are done in blocks of `ROWS`, which share what they read; what lies between passes stays in cache, in rows that
begin an odd number of cache lines after each other: at 4 kB, as in an image of 1024 pixels, eight of them would fill
all there is of the first-level cache for a column. Most of what the next block reads is asked for a block before, a
little at a time, so that memory works while this one is computed.

Images are contiguous, of `LANES` pixels or more in a row, and given by the addresses of their float32. Blocks (of
`keep`, rows) are counted through all planes, and a call does those of `[start, stop)`, so that threads share the work;
what a row becomes does not depend on them. The last vector of a row may overlap the one before.
"""

import math
from typing import NamedTuple

import numpy as np

from percep.kernels.jit import compiled, inlined
from percep.kernels.vectors import (
    LANES,
    ROWS,
    across,
    down,
    exponent_and_fraction,
    larger,
    largest,
    load,
    places,
    power_of_two,
    prefetch,
    read,
    rounded_down,
    smaller,
    splat,
    store,
    total,
    turned,
    where_above,
    where_nan,
    write,
)

EDGE = 16
"""Where a row begins in a line, after what is mirrored of it."""
CACHE_LINE = 16
"""float32 in a cache line: to read a vector that lies in two takes twice as long."""
_ZERO, _HALF, _ONE, _TWO, _INFINITE = (np.float32(value) for value in (0, 0.5, 1, 2, math.inf))
_FRESH = np.repeat([_ZERO, _ONE], LANES)  # what is not in the vector before, from LANES minus the overlap on
# A step's limits, as in `percep.solvers.dual`: most of a logarithm, least and most of a last step that is repeated,
# most of a step.
_VIOLATION, _FORGOTTEN, _REPEATED, _STEP = (np.float32(value) for value in (10, -1, 0.2, 3))
_LN2_HIGH, _LN2_LOW = np.float32(355 / 512), np.float32(math.log(2) - 355 / 512)
_LOG2_E = np.float32(1 / math.log(2))
# Of atanh and of exp at 0.
_A3, _A5, _A7, _A9, _A11, _A13 = (np.float32(1 / k) for k in range(3, 14, 2))
_E2, _E3, _E4, _E5, _E6, _E7 = (np.float32(1 / math.factorial(k)) for k in range(2, 8))


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
def _room(count):
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
def _down(lines, rows, row, passes):
    """Passes down to the rows of a block."""
    seen = places(passes.down, row // ROWS, passes.taps)
    for first in range(0, passes.width, LANES):
        j = min(first, passes.width - LANES)
        means = down(rows, seen, j, passes.taps)
        for k in range(ROWS):
            store(lines, k * passes.room + EDGE + j, means[k])


@inlined
def _mirror(lines, passes):
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
def mean(values, out, passes, start, stop):
    """Local means `out` of planes `values`."""
    height, width, room, blocks = passes.height, passes.width, passes.room, passes.blocks
    half = len(passes.taps) - 1
    rows, lines = _room(passes.held * room), _room(ROWS * room)
    taken = 0
    for place in range(start, stop):
        row, origin = place % blocks * ROWS, place // blocks * height * width
        if place == start or row == 0:
            taken = max(row - half, 0)
        until = min(row + half + ROWS, height)
        _hold(rows, values, origin, taken, until, passes)
        taken = until
        _down(lines, rows, row, passes)
        _mirror(lines, passes)
        for k in range(min(ROWS, height - row)):
            ahead = origin + (row + k + half + ROWS) * width
            _across(out, origin + (row + k) * width, lines, k * room + EDGE, values, ahead, passes)


@compiled
def spread(values, diagonal, inner, out, sums, whole, passes, start, stop):
    """`out = diagonal v + A' (inner A v)`, and `sums` of `v out`, one for each row.

    Where it is not `whole`, `out = A' inner`, and nothing else is read or written.
    """
    height, width, room, held, blocks = passes.height, passes.width, passes.room, passes.held, passes.blocks
    half = len(passes.taps) - 1
    lines, priced = _room(ROWS * room), _room(ROWS * room)
    of_values, rows = _room(held * room), _room(held * room)
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
                _down(lines, of_values, done, passes)
                _mirror(lines, passes)
            for k in range(count):
                line = k * room + EDGE
                _price(priced, lines, line, inner, origin + (done + k) * width, whole, passes)
                _scale_ends(priced, line, width, _TWO)
            _mirror(priced, passes)
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
        fresh = load(_FRESH, LANES + j - first)
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
def update(
    delta, reference, mean_x, variance_x, first_k, second_k, k_by_image, k_by_window, first_radius, second_radius,
    first_price, second_price, first_last, second_last, weights_of_mean, weights_of_variance, eta, momentum,
    first_raised, second_raised, first_step, second_step, sums, extremes, channels, floored, averaged, passes, start,
    stop,
):  # fmt: skip
    """One step of the floor's multipliers and the ellipsoid's norm, as `percep.solvers.dual` defines them.

    Prices, steps and `extremes` are written where `floored`, sums of the norm, one for each row, where `averaged`.
    Images that only the other needs are not read. Extremes are each row's largest and smallest first price, and second.
    """
    height, width, room, held, blocks = passes.height, passes.width, passes.room, passes.held, passes.blocks
    half, ahead = len(passes.taps) - 1, ROWS * passes.width
    moved, squares, products = _room(held * room), _room(held * room), _room(held * room)
    of_mean, of_square, of_product = _room(ROWS * room), _room(ROWS * room), _room(ROWS * room)
    luminance, contrast = _room(room), _room(room)
    taken = 0
    for place in range(start, stop):
        plane, row = place // blocks, place % blocks * ROWS
        image, origin = plane // channels, plane * height * width
        if place == start or row == 0:
            taken = max(row - half, 0)
        until = min(row + half + ROWS, height)
        _hold_products(moved, squares, products, delta, reference, origin, taken, until, floored, passes)
        taken = until
        _down(of_mean, moved, row, passes)
        _down(of_square, squares, row, passes)
        _mirror(of_mean, passes)
        _mirror(of_square, passes)
        if floored:
            _down(of_product, products, row, passes)
            _mirror(of_product, passes)
        own_eta, own_momentum = splat(read(eta, image)), splat(read(momentum, image))
        own_k = image * k_by_image
        k1, k2 = splat(read(first_k, own_k)), splat(read(second_k, own_k))
        for k in range(min(ROWS, height - row)):
            spent = splat(_ZERO)
            for first in range(0, width, LANES):
                j = min(first, width - LANES)
                line, at = k * room + EDGE + j, (plane * height + row + k) * width + j
                prefetch(delta, at + (half + ROWS) * width)
                mean_d, second_d = across(of_mean, line, passes.taps), across(of_square, line, passes.taps)
                variance_d = second_d - mean_d * mean_d
                if averaged:
                    norm = load(weights_of_mean, at) * mean_d * mean_d
                    norm = norm + load(weights_of_variance, at) * larger(splat(_ZERO), variance_d)
                    spent += load(_FRESH, LANES + j - first) * norm
                if not floored:
                    continue
                if k_by_window:
                    k_at = own_k + at - image * channels * height * width
                    k1, k2 = load(first_k, k_at), load(second_k, k_at)
                prefetch(reference, at + (half + ROWS) * width)
                prefetch(mean_x, at + ahead)
                prefetch(variance_x, at + ahead)
                m_x, v_x = load(mean_x, at), load(variance_x, at)
                covariance = across(of_product, line, passes.taps) - mean_d * m_x
                shift = mean_d - k1 * m_x
                store(luminance, j, shift * shift)
                store(contrast, j, variance_d - k2 * (covariance + covariance) + k2 * k2 * v_x)
            if averaged:
                write(sums, plane * height + row + k, total(spent))
            if floored:
                at, pace = plane * height + row + k, (own_eta, own_momentum)
                _raise(
                    luminance, first_radius, first_price, first_last, pace, first_raised, first_step, at, extremes,
                    4 * at, passes,
                )  # fmt: skip
                _raise(
                    contrast, second_radius, second_price, second_last, pace, second_raised, second_step, at, extremes,
                    4 * at + 2, passes,
                )  # fmt: skip


@inlined
def _hold_products(moved, squares, products, delta, reference, origin, since, until, floored, passes):
    """`_hold` for delta, its square and, where `floored`, its product with the reference."""
    for row in range(since, until):
        to, at = row % passes.held * passes.room, origin + row * passes.width
        for first in range(0, passes.width, LANES):
            j = min(first, passes.width - LANES)
            d = load(delta, at + j)
            store(moved, to + j, d)
            store(squares, to + j, d * d)
            if floored:
                store(products, to + j, d * load(reference, at + j))


@inlined
def _raise(squares, radius, price, last, pace, raised, steps, row, extremes, place, passes):
    """The steps of a row of multipliers whose constraints are at `squares`, where they lead, and the extremes of that.

    In two loops, as each is bound by how long an operation waits for another, and so by how many are begun meanwhile.
    """
    eta, momentum = pace
    zero, begin, ahead = splat(_ZERO), row * passes.width, ROWS * passes.width
    for first in range(0, passes.width, LANES):
        j = min(first, passes.width - LANES)
        at = begin + j
        prefetch(radius, at + ahead)
        prefetch(last, at + ahead)
        square, limit, kept = load(squares, j), load(radius, at), load(last, at)
        limit = limit * limit
        violation = _within(_log_ratio(square, limit), -_VIOLATION, _VIOLATION)
        kept = _within(where_above(kept * violation, zero, kept, zero), _FORGOTTEN, _REPEATED)
        step = _within(eta * violation + momentum * kept, -_STEP, _STEP)
        store(steps, at, where_nan(square + limit, step))  # NaN must not be taken for a number
    most, least = zero, splat(_INFINITE)
    for first in range(0, passes.width, LANES):
        at = begin + min(first, passes.width - LANES)
        prefetch(price, at + ahead)
        step = load(steps, at)
        product = where_nan(step, load(price, at) * _exponential(step))
        store(raised, at, product)
        most, least = where_nan(product, larger(product, most)), smaller(product, least)
    known = total(most)
    write(extremes, place, known if math.isnan(known) else largest(most))
    write(extremes, place + 1, -largest(zero - least))


@compiled
def keep(first_raised, second_raised, extremes, lowest, channels, height, width, start, stop):
    """Raises prices to the `lowest` first and second of their image, in rows where `extremes` show some below."""
    for row in range(start, stop):
        image = row // (channels * height)
        for which in range(2):
            limit = read(lowest, 2 * image + which)
            if not read(extremes, 4 * row + 2 * which + 1) >= limit:  # or where it is NaN
                prices = first_raised if which == 0 else second_raised
                for first in range(0, width, LANES):
                    at = row * width + min(first, width - LANES)
                    store(prices, at, larger(load(prices, at), splat(limit)))


@inlined
def _within(values, least, most):
    return smaller(larger(values, splat(least)), splat(most))


@inlined
def _log_ratio(first, second):
    """The logarithm of a ratio of normal positive numbers, to 2e-7 of 1 or of the result, whichever is larger.

    It is `e log 2 + 2 atanh(s)` with `first / second = 2^e (1 + s) / (1 - s)` and |s| < 1/3. 0 counts as 2^-127.
    """
    e1, f1 = exponent_and_fraction(first)
    e2, f2 = exponent_and_fraction(second)
    e, s = e1 - e2, (f1 - f2) / (f1 + f2)
    q = s * s
    series = splat(_A5) + q * splat(_A7) + q * q * (splat(_A9) + q * splat(_A11) + q * q * splat(_A13))
    return e * splat(_LN2_HIGH) + (e * splat(_LN2_LOW) + (s + s) * (splat(_ONE) + q * splat(_A3) + q * q * series))


@inlined
def _exponential(values):
    """The exponential of numbers between -80 and 80, to 2e-7 of it: `2^n exp(r)` with |r| < 0.347."""
    one = splat(_ONE)
    n = rounded_down(values * splat(_LOG2_E) + splat(_HALF))
    r = values - n * splat(_LN2_HIGH) - n * splat(_LN2_LOW)
    q = r * r
    small = (splat(_E2) + r * splat(_E3)) + q * ((splat(_E4) + r * splat(_E5)) + q * (splat(_E6) + r * splat(_E7)))
    return ((one + r) + q * small) * power_of_two(n)
