"""Numba kernels for the step of a floor's multipliers and the norm of an ellipsoid, as `percep.solvers.dual` has them.

Rows are worked through as in `symmetric`, with the same windows.
"""

import math

import numpy as np

from percep.kernels.cpu.compile import compiled, inlined
from percep.kernels.cpu.openmp import share
from percep.kernels.cpu.simd import (
    LANES,
    ROWS,
    across,
    exponent_and_fraction,
    larger,
    largest,
    load,
    power_of_two,
    prefetch,
    read,
    rounded_down,
    smaller,
    splat,
    store,
    total,
    where_above,
    where_nan,
    write,
)
from percep.kernels.cpu.symmetric import EDGE, FRESH, add_rows, mirror, pass_down, room_for

_ZERO, _HALF, _ONE, _INFINITE = (np.float32(value) for value in (0, 0.5, 1, math.inf))
# A step's limits, as in `percep.solvers.dual`: most of a logarithm, least and most of a last step that is repeated,
# most of a step.
_VIOLATION, _FORGOTTEN, _REPEATED, _STEP = (np.float32(value) for value in (10, -1, 0.2, 3))
_LN2_HIGH, _LN2_LOW = np.float32(355 / 512), np.float32(math.log(2) - 355 / 512)
_LOG2_E = np.float32(1 / math.log(2))
# Of atanh and of exp at 0.
_A3, _A5, _A7, _A9, _A11, _A13 = (np.float32(1 / k) for k in range(3, 14, 2))
_E2, _E3, _E4, _E5, _E6, _E7 = (np.float32(1 / math.factorial(k)) for k in range(2, 8))


@compiled
def _update(
    delta, reference, mean_x, variance_x, first_k, second_k, k_by_image, k_by_window, first_radius, second_radius,
    first_price, second_price, first_last, second_last, weights_of_mean, weights_of_variance, eta, momentum,
    first_raised, second_raised, first_step, second_step, sums, extremes, channels, floored, averaged, passes, start,
    stop,
):  # fmt: skip
    """Blocks `[start, stop)` of an `update`, but for the floor under the prices.

    Extremes are each row's largest and smallest first price, and second.
    """
    height, width, room, held, blocks = passes.height, passes.width, passes.room, passes.held, passes.blocks
    half, ahead = len(passes.taps) - 1, ROWS * passes.width
    moved, squares, products = room_for(held * room), room_for(held * room), room_for(held * room)
    of_mean, of_square, of_product = room_for(ROWS * room), room_for(ROWS * room), room_for(ROWS * room)
    luminance, contrast = room_for(room), room_for(room)
    taken = 0
    for place in range(start, stop):
        plane, row = place // blocks, place % blocks * ROWS
        image, origin = plane // channels, plane * height * width
        if place == start or row == 0:
            taken = max(row - half, 0)
        until = min(row + half + ROWS, height)
        _hold_products(moved, squares, products, delta, reference, origin, taken, until, floored, passes)
        taken = until
        pass_down(of_mean, moved, row, passes)
        pass_down(of_square, squares, row, passes)
        mirror(of_mean, passes)
        mirror(of_square, passes)
        if floored:
            pass_down(of_product, products, row, passes)
            mirror(of_product, passes)
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
                    spent += load(FRESH, LANES + j - first) * norm
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
    """Copies rows of delta, its square and, where `floored`, its product with the reference to where they are held."""
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
def _keep(first_raised, second_raised, extremes, lowest, channels, height, width, start, stop):
    """Raises prices to the `lowest` first and second of their image, in rows where `extremes` show some below: rows
    `[start, stop)`, counted through all planes.
    """
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


@compiled
def update(
    delta, reference, mean_x, variance_x, first_k, second_k, k_by_image, k_by_window, first_radius, second_radius,
    first_price, second_price, first_last, second_last, weights_of_mean, weights_of_variance, eta, momentum,
    first_raised, second_raised, first_step, second_step, spent, channels, floored, averaged, least, passes, planes,
    team,
):  # fmt: skip
    """One step of the floor's multipliers and the ellipsoid's norm, as `percep.solvers.dual` defines them.

    Prices and steps are written where `floored`, each at least the `least` share of the image's largest. The norm
    `spent` of each image, of so many `channels`, is 0 where it is not `averaged`. Images that only the other needs are
    not read.
    """
    rows = channels * passes.height
    sums, extremes = np.zeros(planes * passes.height, np.float32), np.empty(4 * planes * passes.height, np.float32)
    of_update = (
        delta, reference, mean_x, variance_x, first_k, second_k, k_by_image, k_by_window, first_radius, second_radius,
        first_price, second_price, first_last, second_last, weights_of_mean, weights_of_variance, eta, momentum,
        first_raised, second_raised, first_step, second_step, sums, extremes, channels, floored, averaged, passes,
    )  # fmt: skip
    share(_update, of_update, planes * passes.blocks, team)
    add_rows(spent, sums, rows)
    if floored:
        lowest = np.empty(2 * (planes // channels), np.float32)
        for image in range(planes // channels):
            for which in range(2):
                most = _ZERO
                for row in range(image * rows, (image + 1) * rows):
                    price = extremes[4 * row + 2 * which]
                    if price > most or math.isnan(price):
                        most = price
                lowest[2 * image + which] = np.float32(least) * most
        of_keep = first_raised, second_raised, extremes, lowest, channels, passes.height, passes.width
        share(_keep, of_keep, planes * passes.height, team)
