"""Numba kernels for projections onto a floor's windows, as `percep.solvers.feasibility` defines them.

Blocks of rows are worked through as in `symmetric`, with the same windows.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from percep.kernels.cpu.compile import compiled
from percep.kernels.cpu.openmp import share
from percep.kernels.cpu.simd import (
    LANES,
    ROWS,
    across,
    larger,
    largest,
    load,
    prefetch,
    read,
    smaller,
    splat,
    store,
    where_above,
    write,
)
from percep.kernels.cpu.symmetric import EDGE, empty_aligned, mirror, pass_down
from percep.kernels.cpu.update import copy_products, shifted_variance

T = TypeVar("T")
_ZERO, _ONE, _TWO = (np.float32(value) for value in (0, 1, 2))


class Excesses(NamedTuple, Generic[T]):
    """What is found of every window, `(B, C, h, w)`: see `percep.kernels.arguments.WindowExcesses`."""

    luminance: T
    contrast: T
    shifted_mean: T


class Radii(NamedTuple, Generic[T]):
    """Of the luminance's and the contrast's balls, `(B, C, h, w)`, and their k, one for each image or for all."""

    luminance: T
    contrast: T
    k_luminance: T
    k_contrast: T
    k_by_image: int


@compiled
def _find_excesses(images, radii, found, exceeded, tightening, channels, passes, start, stop):
    """Blocks `[start, stop)` of `find_excesses`, with 1 for every row in which a window exceeds its radius."""
    height, width, pitch, blocks = passes.height, passes.width, passes.pitch, passes.blocks
    half, ring = len(passes.taps) - 1, passes.ring_rows * pitch
    moved, squares, products = empty_aligned(ring), empty_aligned(ring), empty_aligned(ring)
    of_mean, of_square = empty_aligned(ROWS * pitch), empty_aligned(ROWS * pitch)
    of_product = empty_aligned(ROWS * pitch)
    zero, one = splat(_ZERO), splat(_ONE)
    share_kept, allowed = splat(np.float32(1 - tightening)), splat(np.float32(1 + tightening))
    copied = 0
    for block in range(start, stop):
        plane, row = block // blocks, block % blocks * ROWS
        origin = plane * height * width
        if block == start or row == 0:
            copied = max(row - half, 0)
        until = min(row + half + ROWS, height)
        copy_products(moved, squares, products, images, origin, copied, until, True, passes)
        copied = until
        pass_down(of_mean, moved, row, passes)
        pass_down(of_square, squares, row, passes)
        pass_down(of_product, products, row, passes)
        mirror(of_mean, passes)
        mirror(of_square, passes)
        mirror(of_product, passes)
        own_k = plane // channels * radii.k_by_image
        k1, k2 = splat(read(radii.k_luminance, own_k)), splat(read(radii.k_contrast, own_k))
        for k in range(min(ROWS, height - row)):
            above = zero
            for first in range(0, width, LANES):
                j = min(first, width - LANES)
                line, at = k * pitch + EDGE + j, (plane * height + row + k) * width + j
                prefetch(images.delta, at + (half + ROWS) * width)
                prefetch(images.reference, at + (half + ROWS) * width)
                prefetch(images.reference_mean, at + ROWS * width)
                prefetch(images.reference_variance, at + ROWS * width)
                mean_d, second_d = across(of_mean, line, passes.taps), across(of_square, line, passes.taps)
                mean_x, variance_x = load(images.reference_mean, at), load(images.reference_variance, at)
                covariance = across(of_product, line, passes.taps) - mean_d * mean_x
                variance_d = larger(zero, second_d - mean_d * mean_d)
                variance = larger(zero, shifted_variance(variance_d, covariance, k2, variance_x))
                radius, shift = load(radii.contrast, at), mean_d - k1 * mean_x
                limit = radius * radius
                store(found.contrast, at, where_above(variance, limit, variance - share_kept * limit, zero))
                above = where_above(variance, allowed * limit, one, above)
                radius = load(radii.luminance, at)
                target, limit = share_kept * radius, radius * radius
                low = where_above(zero - radius, shift, shift + target, zero)
                store(found.luminance, at, where_above(shift, radius, shift - target, low))
                above = where_above(shift * shift, allowed * limit, one, above)
                store(found.shifted_mean, at, mean_d - k2 * mean_x)
            exceeded[plane * height + row + k] = largest(above)


@compiled
def find_excesses(images, radii, found, exceeded, tightening, channels, passes, planes, team):
    """By how much every window exceeds its balls, and 1 for images that exceed one by more than the `tightening`."""
    rows = np.empty(planes * passes.height, np.float32)
    of_excesses = images, radii, found, rows, tightening, channels, passes
    share(_find_excesses, of_excesses, planes * passes.blocks, team)
    count = channels * passes.height
    for image in range(planes // channels):
        most = _ZERO
        for row in range(image * count, (image + 1) * count):
            most = max(most, rows[row])
        write(exceeded, image, most)


@compiled
def _project(images, amount, of_mean, radii, out, channels, passes, start, stop):
    """Rows `[start, stop)` of `project`."""
    zero, one, two = splat(_ZERO), splat(_ONE), splat(_TWO)
    for row in range(start, stop):
        k = splat(read(radii.k_contrast, row // (channels * passes.height) * radii.k_by_image))
        for first in range(0, passes.width, LANES):
            at = row * passes.width + min(first, passes.width - LANES)
            d, x, weight = load(images.delta, at), load(images.reference, at), load(amount, at)
            d = d - two * (d * weight - x * (k * weight) - load(of_mean, at))
            store(out, at, smaller(one - x, larger(zero - x, d)))  # NaN stays NaN


@compiled
def project(images, amount, of_mean, radii, out, channels, passes, planes, team):
    """`d - 2 (amount (d - k x) - of_mean)`, clamped to the pixel range."""
    share(_project, (images, amount, of_mean, radii, out, channels, passes), planes * passes.height, team)
