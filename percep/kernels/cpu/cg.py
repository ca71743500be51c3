"""Numba kernels of conjugate gradients over the pixel range, as `percep.solvers.box_cg` defines them.

Images are contiguous, of `LANES` pixels or more in a row, and given by the addresses of their float32. What they hold
of the chosen images is worked on, of others nothing is read or written. Bands of rows are counted through all planes
of those, and threads share them; results do not depend on how. The last vector of a row may overlap the one before.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from percep.kernels.cpu.compile import compiled, inlined
from percep.kernels.cpu.multilevel import correct, interpolate_line, restrict_line
from percep.kernels.cpu.openmp import share
from percep.kernels.cpu.simd import (
    LANES,
    larger,
    largest,
    load,
    read,
    smaller,
    splat,
    store,
    total,
    where_above,
    write,
)
from percep.kernels.cpu.symmetric import NEW_LANES, add_rows_of_chosen, empty_aligned

T = TypeVar("T")
_ZERO, _ONE = np.float32(0), np.float32(1)
REVISED, RESTARTED, RIGHT_HAND_SIDE = range(3)
"""What the free pixels are found for: a residual that is there, a new one, or the right-hand side."""


class Vectors(NamedTuple, Generic[T]):
    """What conjugate gradients hold, `(B, C, H, W)` where nothing else is said.

    Attributes:
        delta: the iterate.
        reference: whose pixel range it has: -x to 1 - x.
        rhs, residual: b and `b - M d`.
        product: M times the iterate or the direction.
        inverse: of the diagonal of M, 0 where no window is.
        free_inverse: that of free pixels, 0 elsewhere.
        scaled: the preconditioned residual, 0 outside free pixels.
        contributions: `(B, C, h, 2, w)`, of every band to the two rows of the first coarse grid around it.
        level_inverse: `(B, C, n)`, of the energies of all hats.
        corrections: `(B, C, h, w)`, of the first coarse grid.
    """

    delta: T
    reference: T
    rhs: T
    residual: T
    product: T
    inverse: T
    free_inverse: T
    scaled: T
    contributions: T
    level_inverse: T
    corrections: T


@inlined
def _leave_contributions(contributions, plane, band, upper, lower, passes):
    """Restricts a band's weighted sums of rows across."""
    to = 2 * (plane * passes.bands + band) * passes.sizes[3]
    restrict_line(contributions, to, upper, 0, 1, passes)
    restrict_line(contributions, to + passes.sizes[3], lower, 0, 1, passes)


@compiled
def _move(vectors, direction, alpha, excursions, images, channels, passes, start, stop):
    """Bands `[start, stop)` of `move`, with the largest excursion of each."""
    width = passes.width
    zero, one = splat(_ZERO), splat(_ONE)
    upper, lower = empty_aligned(width), empty_aligned(width)
    for item in range(start, stop):
        local, band = item // passes.bands, item % passes.bands
        image = images[local // channels]
        plane = image * channels + local % channels
        length, excursion = splat(read(alpha, image)), zero
        for first in range(0, width, LANES):
            j = min(first, width - LANES)
            step = length * load(NEW_LANES, LANES + j - first)  # what the vector before has moved is not moved again
            above = below = zero
            for row in range(passes.band_rows[band], passes.band_rows[band + 1]):
                at = (plane * passes.height + row) * width + j
                d = load(vectors.delta, at) + step * load(direction, at)
                r = load(vectors.residual, at) - step * load(vectors.product, at)
                x = load(vectors.reference, at)
                store(vectors.delta, at, d)
                store(vectors.residual, at, r)
                excursion = larger(d - (one - x), larger(zero - x - d, excursion))
                r = where_above(load(vectors.free_inverse, at), zero, r, zero)
                share_below = splat(passes.fraction[row])
                above += (one - share_below) * r
                below += share_below * r
            store(upper, j, above)
            store(lower, j, below)
        write(excursions, item, largest(excursion))
        _leave_contributions(vectors.contributions, plane, band, upper, lower, passes)


@compiled
def move(vectors, direction, alpha, excursion, images, channels, passes, planes, team):
    """The step `alpha` of each image along the direction, and by how much the iterate then leaves the pixel range.

    Also the first restriction of the free pixels' new residual.
    """
    excursions = np.empty(planes * passes.bands, np.float32)
    of_move = vectors, direction, alpha, excursions, images, channels, passes
    share(_move, of_move, planes * passes.bands, team)
    _largest_of_images(excursion, excursions, images, channels * passes.bands)


@compiled
def _find_free(vectors, kind, changes, images, channels, passes, start, stop):
    """Bands `[start, stop)` of `find_free`, with 1 where a pixel has changed in it."""
    width = passes.width
    zero, one = splat(_ZERO), splat(_ONE)
    upper, lower = empty_aligned(width), empty_aligned(width)
    for item in range(start, stop):
        local, band = item // passes.bands, item % passes.bands
        plane = images[local // channels] * channels + local % channels
        changed = zero
        for first in range(0, width, LANES):
            j = min(first, width - LANES)
            above = below = zero
            for row in range(passes.band_rows[band], passes.band_rows[band + 1]):
                at = (plane * passes.height + row) * width + j
                inverse = load(vectors.inverse, at)
                if kind == RIGHT_HAND_SIDE:
                    r, free = load(vectors.rhs, at), inverse
                else:
                    if kind == RESTARTED:
                        r = load(vectors.rhs, at) - load(vectors.product, at)
                        store(vectors.residual, at, r)
                    else:
                        r = load(vectors.residual, at)
                    free = _inverse_if_free(load(vectors.delta, at), load(vectors.reference, at), r, inverse)
                if kind == REVISED:
                    old = load(vectors.free_inverse, at)
                    changed = larger(where_above(old, free, one, where_above(free, old, one, zero)), changed)
                store(vectors.free_inverse, at, free)
                r = where_above(free, zero, r, zero)
                share_below = splat(passes.fraction[row])
                above += (one - share_below) * r
                below += share_below * r
            store(upper, j, above)
            store(lower, j, below)
        write(changes, item, largest(changed))
        _leave_contributions(vectors.contributions, plane, band, upper, lower, passes)


@inlined
def _inverse_if_free(d, x, r, inverse):
    """0 at an end of the range where the residual points outwards; of a residual of 0 or NaN the inverse."""
    zero, one = splat(_ZERO), splat(_ONE)
    inside_above, inside_below = where_above(one - x, d, inverse, zero), where_above(d, zero - x, inverse, zero)
    return where_above(r, zero, inside_above, where_above(zero, r, inside_below, inverse))


@compiled
def find_free(vectors, kind, changed, images, channels, passes, planes, team):
    """The free pixels at a residual, and the first restriction of what they have of it.

    Args:
        vectors: whose `free_inverse` is written, and the residual if it is RESTARTED.
        kind: REVISED, RESTARTED or RIGHT_HAND_SIDE, of which all covered pixels are free.
        changed: of each image, 1 if it has been REVISED and a pixel has changed, else 0.
        images, channels: the chosen images, with so many planes each.
        passes: the preconditioner's transfers.
        planes: of the chosen images.
        team: what works on it.
    """
    changes = np.empty(planes * passes.bands, np.float32)
    share(_find_free, (vectors, kind, changes, images, channels, passes), planes * passes.bands, team)
    _largest_of_images(changed, changes, images, channels * passes.bands)


@compiled
def _scale(vectors, residual, sums, images, channels, passes, start, stop):
    """Bands `[start, stop)` of `precondition`, once there are corrections; with the inner product of each row."""
    width, columns, zero = passes.width, passes.sizes[3], splat(_ZERO)
    above, below = empty_aligned(width), empty_aligned(width)
    for item in range(start, stop):
        local, band = item // passes.bands, item % passes.bands
        plane = images[local // channels] * channels + local % channels
        coarse = (plane * passes.bands + band) * columns
        if item == start or band == 0:
            interpolate_line(above, 0, vectors.corrections, coarse, 1, passes)
        else:
            above, below = below, above
        # Below the last row there is none, and its share is 0.
        interpolate_line(below, 0, vectors.corrections, coarse + min(passes.bands - 1 - band, 1) * columns, 1, passes)
        for row in range(passes.band_rows[band], passes.band_rows[band + 1]):
            share_below, share_above = splat(passes.fraction[row]), splat(_ONE - passes.fraction[row])
            added, begin = zero, (plane * passes.height + row) * width
            for first in range(0, width, LANES):
                j = min(first, width - LANES)
                free, r = load(vectors.free_inverse, begin + j), load(residual, begin + j)
                smooth = share_above * load(above, j) + share_below * load(below, j)
                scaled = free * r + where_above(free, zero, smooth, zero)
                store(vectors.scaled, begin + j, scaled)
                added += load(NEW_LANES, LANES + j - first) * (scaled * r)
            sums[local * passes.height + row] = total(added)


@compiled
def precondition(vectors, residual, products, images, channels, passes, planes, team):
    """The preconditioned residual of the free pixels, whose first restriction is there, and its product with it."""
    contributions, inverse, corrections = vectors.contributions, vectors.level_inverse, vectors.corrections
    share(correct, (contributions, inverse, corrections, images, channels, passes), planes, team)
    sums = np.empty(planes * passes.height, np.float32)
    share(_scale, (vectors, residual, sums, images, channels, passes), planes * passes.bands, team)
    add_rows_of_chosen(products, sums, images, channels * passes.height)


@compiled
def _clamp(values, reference, out, images, channels, passes, start, stop):
    """Rows `[start, stop)` of `clamp`."""
    width, rows = passes.width, channels * passes.height
    for item in range(start, stop):
        begin = (images[item // rows] * rows + item % rows) * width
        for first in range(0, width, LANES):
            at = begin + min(first, width - LANES)
            x, d = load(reference, at), load(values, at)
            store(out, at, smaller(splat(_ONE) - x, larger(splat(_ZERO) - x, d)))  # NaN stays NaN


@compiled
def clamp(values, reference, out, images, channels, passes, planes, team):
    """Values clamped to the pixel range."""
    share(_clamp, (values, reference, out, images, channels, passes), planes * passes.height, team)


@compiled
def _largest_of_images(out, values, images, count):
    """The largest of every chosen image's values, of which it has so many."""
    for k in range(len(images)):
        most = _ZERO
        for place in range(k * count, (k + 1) * count):
            most = max(most, values[place])
        write(out, images[k], most)
