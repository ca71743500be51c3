"""Numba kernels for the step of a floor's multipliers and the norm of an ellipsoid, as `percep.solvers.dual` has them.

Blocks of rows are worked through as in `symmetric`, with the same windows.
"""

import math
from typing import NamedTuple

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
from percep.kernels.cpu.symmetric import EDGE, NEW_LANES, add_rows, empty_aligned, mirror, pass_down

_ZERO, _HALF, _ONE, _INFINITE = (np.float32(value) for value in (0, 0.5, 1, math.inf))
# As in `percep.solvers.dual`: limits of the logarithm of a ratio, of a last step that is repeated, and of a step.
_MAX_VIOLATION, _MIN_REPEATED, _MAX_REPEATED, _MAX_STEP = (np.float32(value) for value in (10, -1, 0.2, 3))
_LN2_HIGH, _LN2_LOW = np.float32(355 / 512), np.float32(math.log(2) - 355 / 512)
_LOG2_E = np.float32(1 / math.log(2))
# Coefficients of the series of atanh and of exp at 0.
_A3, _A5, _A7, _A9, _A11, _A13 = (np.float32(1 / k) for k in range(3, 14, 2))
_E2, _E3, _E4, _E5, _E6, _E7 = (np.float32(1 / math.factorial(k)) for k in range(2, 8))


class Parts(NamedTuple):
    """Which parts of an update are computed.

    Attributes:
        floor: the step of the floor's multipliers, ...
        min_share: ... none of which then falls below this share of its image's largest.
        ellipsoid: its norm.
    """

    floor: bool
    min_share: float
    ellipsoid: bool


@inlined
def shifted_variance(variance, covariance, k, reference_variance):
    """`var(d - k x)` from the variances of d and x and their covariance."""
    return variance - k * (covariance + covariance) + k * k * reference_variance


@compiled
def _update(given, sums, extremes, channels, parts, passes, start, stop):
    """Blocks `[start, stop)` of an `update`, before multipliers are clamped.

    Writes each row's part of the ellipsoid's squared norm to `sums`; to `extremes` the largest and the smallest of its
    new multipliers, of luminance and of contrast.
    """
    images, floor, ellipsoid = given.images, given.floor, given.ellipsoid
    height, width, pitch, blocks = passes.height, passes.width, passes.pitch, passes.blocks
    half, ahead, ring = len(passes.taps) - 1, ROWS * passes.width, passes.ring_rows * pitch
    moved, squares, products = empty_aligned(ring), empty_aligned(ring), empty_aligned(ring)
    of_mean, of_square, of_product = (
        empty_aligned(ROWS * pitch),
        empty_aligned(ROWS * pitch),
        empty_aligned(ROWS * pitch),
    )
    luminance, contrast = empty_aligned(pitch), empty_aligned(pitch)
    copied = 0
    for block in range(start, stop):
        plane, row = block // blocks, block % blocks * ROWS
        image, origin = plane // channels, plane * height * width
        if block == start or row == 0:
            copied = max(row - half, 0)
        until = min(row + half + ROWS, height)
        copy_products(moved, squares, products, images, origin, copied, until, parts.floor, passes)
        copied = until
        pass_down(of_mean, moved, row, passes)
        pass_down(of_square, squares, row, passes)
        mirror(of_mean, passes)
        mirror(of_square, passes)
        if parts.floor:
            pass_down(of_product, products, row, passes)
            mirror(of_product, passes)
        step_sizes = splat(read(given.step_sizes.eta, image)), splat(read(given.step_sizes.momentum, image))
        own_k = image * floor.k_by_image
        k1, k2 = splat(read(floor.luminance.k, own_k)), splat(read(floor.contrast.k, own_k))
        for k in range(min(ROWS, height - row)):
            norm = splat(_ZERO)
            for first in range(0, width, LANES):
                j = min(first, width - LANES)
                line, at = k * pitch + EDGE + j, (plane * height + row + k) * width + j
                prefetch(images.delta, at + (half + ROWS) * width)
                mean_d, second_d = across(of_mean, line, passes.taps), across(of_square, line, passes.taps)
                variance_d = second_d - mean_d * mean_d
                if parts.ellipsoid:
                    squared = load(ellipsoid.luminance, at) * mean_d * mean_d
                    squared = squared + load(ellipsoid.contrast, at) * larger(splat(_ZERO), variance_d)
                    norm += load(NEW_LANES, LANES + j - first) * squared
                if not parts.floor:
                    continue
                if floor.k_by_window:
                    k_at = own_k + at - image * channels * height * width
                    k1, k2 = load(floor.luminance.k, k_at), load(floor.contrast.k, k_at)
                prefetch(images.reference, at + (half + ROWS) * width)
                prefetch(images.reference_mean, at + ahead)
                prefetch(images.reference_variance, at + ahead)
                mean_x, variance_x = load(images.reference_mean, at), load(images.reference_variance, at)
                covariance = across(of_product, line, passes.taps) - mean_d * mean_x
                shift = mean_d - k1 * mean_x
                store(luminance, j, shift * shift)
                store(contrast, j, shifted_variance(variance_d, covariance, k2, variance_x))
            if parts.ellipsoid:
                write(sums, plane * height + row + k, total(norm))
            if parts.floor:
                at = plane * height + row + k
                _multiply(luminance, floor.luminance, step_sizes, at, extremes, 4 * at, passes)
                _multiply(contrast, floor.contrast, step_sizes, at, extremes, 4 * at + 2, passes)


@inlined
def copy_products(moved, squares, products, images, origin, start, stop, floored, passes):
    """Copies rows of delta, its square and, where `floored`, its product with the reference into ring buffers."""
    for row in range(start, stop):
        to, at = row % passes.ring_rows * passes.pitch, origin + row * passes.width
        for first in range(0, passes.width, LANES):
            j = min(first, passes.width - LANES)
            d = load(images.delta, at + j)
            store(moved, to + j, d)
            store(squares, to + j, d * d)
            if floored:
                store(products, to + j, d * load(images.reference, at + j))


@inlined
def _multiply(squares, constraints, step_sizes, row, extremes, place, passes):
    """New multipliers of a row of `constraints` that are at `squares`, their steps, and the extremes of them.

    In two loops, as each is bound by how long an operation waits for another, and so by how many are begun meanwhile.
    """
    eta, momentum = step_sizes
    zero, begin, ahead = splat(_ZERO), row * passes.width, ROWS * passes.width
    for first in range(0, passes.width, LANES):
        j = min(first, passes.width - LANES)
        at = begin + j
        prefetch(constraints.radius, at + ahead)
        prefetch(constraints.last_step, at + ahead)
        square, limit, kept = load(squares, j), load(constraints.radius, at), load(constraints.last_step, at)
        limit = limit * limit
        violation = _within(_log_ratio(square, limit), -_MAX_VIOLATION, _MAX_VIOLATION)
        kept = _within(where_above(kept * violation, zero, kept, zero), _MIN_REPEATED, _MAX_REPEATED)
        step = _within(eta * violation + momentum * kept, -_MAX_STEP, _MAX_STEP)
        store(constraints.new_step, at, where_nan(square + limit, step))  # NaN must not be taken for a number
    most, least = zero, splat(_INFINITE)
    for first in range(0, passes.width, LANES):
        at = begin + min(first, passes.width - LANES)
        prefetch(constraints.multiplier, at + ahead)
        step = load(constraints.new_step, at)
        product = where_nan(step, load(constraints.multiplier, at) * _exponential(step))
        store(constraints.new_multiplier, at, product)
        most, least = where_nan(product, larger(product, most)), smaller(product, least)
    known = total(most)
    write(extremes, place, known if math.isnan(known) else largest(most))
    write(extremes, place + 1, -largest(zero - least))


@compiled
def _clamp(floor, extremes, lowest, channels, height, width, start, stop):
    """Raises multipliers to the `lowest` of their image and set, in rows `[start, stop)`, counted through all planes,
    whose `extremes` are below.
    """
    for row in range(start, stop):
        image = row // (channels * height)
        for which in range(2):
            limit = read(lowest, 2 * image + which)
            if not read(extremes, 4 * row + 2 * which + 1) >= limit:  # or where it is NaN
                multipliers = floor.luminance.new_multiplier if which == 0 else floor.contrast.new_multiplier
                for first in range(0, width, LANES):
                    at = row * width + min(first, width - LANES)
                    store(multipliers, at, larger(load(multipliers, at), splat(limit)))


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
def update(given, squared_norms, channels, parts, passes, planes, team):
    """One step of the floor's multipliers and the ellipsoid's norm, as `percep.solvers.dual` defines them.

    The squared norm of each image, of so many `channels`, is 0 where it is not computed. Images that only the
    other part needs are not read.
    """
    rows = channels * passes.height
    sums, extremes = np.zeros(planes * passes.height, np.float32), np.empty(4 * planes * passes.height, np.float32)
    share(_update, (given, sums, extremes, channels, parts, passes), planes * passes.blocks, team)
    add_rows(squared_norms, sums, rows)
    if parts.floor:
        lowest = np.empty(2 * (planes // channels), np.float32)
        for image in range(planes // channels):
            for which in range(2):
                most = _ZERO
                for row in range(image * rows, (image + 1) * rows):
                    multiplier = extremes[4 * row + 2 * which]
                    if multiplier > most or math.isnan(multiplier):
                        most = multiplier
                lowest[2 * image + which] = np.float32(parts.min_share) * most
        of_clamp = given.floor, extremes, lowest, channels, passes.height, passes.width
        share(_clamp, of_clamp, planes * passes.height, team)
