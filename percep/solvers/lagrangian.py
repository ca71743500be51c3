"""The Lagrangian of a program: its linear system, and the rigorous bound that any multipliers give.

Notation of the modules in this package: every constraint is `|K_i d - c_i| <= R_i` with multiplier `l_i` of its
square, `u_i = 2 l_i (K_i d - c_i)`; the pixel range is kept out of the multipliers and handled exactly.
"""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.batch import per_image
from percep.ball.floor import FloorSets
from percep.kernels.arguments import clamp_to_share
from percep.program import FloorMultipliers, Multipliers, Program, paired
from percep.solvers.quadratic import WindowQuadratic
from percep.ssim import Moments

# A residual that points outwards is bounded by the pixel range if its pixel is within this distance of the range's end.
_AT_END = 1e-4
# The residual of a pixel is bounded by the range as well if its coverage, `A'1`, is below this.
_BARELY_COVERED = 1e-3


def window_weights(ball: SSIMBall, multipliers: Multipliers) -> tuple[Tensor, Tensor]:
    """The total multipliers of each window's squared mean and of its variance, `(B, C, h, w)` each.

    Those of the floor plus the mean's multiplier times its weights. Without either they are 0.
    """
    floor, mean = multipliers.floor, paired(ball.ellipsoid, multipliers.mean)
    if mean is None:
        return (ball.reference.new_zeros(ball.map_shape),) * 2 if floor is None else floor
    ellipsoid, multiplier = mean
    mean_weights, variance_weights = multiplier * ellipsoid.luminance, multiplier * ellipsoid.contrast
    if floor is None:
        return mean_weights, variance_weights
    return floor.luminance + mean_weights, floor.contrast + variance_weights


class NormalEquations(WindowQuadratic):
    """Stationarity in d at fixed multipliers, without the pixel range: `M d = b`, matrix-free.

        M = diag(2 A' q + rho) + 2 A' diag(p - q) A
        b = g + rho a + 2 k2 (A'(l2) x - A'(l2 A x)) + 2 k1 A'(l1 A x)

    `p` and `q` are those of `window_weights`, l1 and l2 the floor's multipliers. M is positive definite on
    the pixels that a window covers, and on all pixels if rho > 0.
    """

    def __init__(self, program: Program, multipliers: Multipliers) -> None:
        ball = program.ball
        super().__init__(ball.window, ball.view.size, *window_weights(ball, multipliers), program.rho)
        self.rhs = program.linear_term
        if (pair := paired(ball.floor_sets, multipliers.floor)) is not None:
            sets, floor = pair
            first, second = sets.luminance.k * floor.luminance, sets.contrast.k * floor.contrast
            if sets.contrast.uniform:
                # Without an ellipsoid `2 A'(l2)` has been computed for M.
                computed = multipliers.mean is None
                adjoint = self.variance_adjoint / 2 if computed else ball.view.adjoint(floor.contrast)
                of_reference = sets.contrast.k * adjoint
            else:
                of_reference = ball.view.adjoint(second)
            self.rhs = torch.addcmul(self.rhs, ball.reference, of_reference, value=2)
            self.rhs = self.rhs.add_(ball.view.adjoint((first - second) * ball.reference_mean), alpha=2)


def dual_bound(program: Program, multipliers: Multipliers, delta: Tensor) -> Tensor:
    """An upper bound on the program's optimum, `(B,)`, valid for ANY multipliers and any `delta`.

    With `u_i = 2 l_i (K_i delta - c_i)` and `r = g - K'u`, weak duality gives, for every feasible d,

        <g, d> - rho/2 |d - a|^2 <= sum_i (R_i |u_i| + <c_i, u_i>) + max_box (<r, d> - rho/2 |d - a|^2).

    The pixel range is wide, so the residual r of stationarity at `delta` is first moved into u:
    `r = K'(K (r / A'1))`, since `K'K v = (A'1) v`. Only the residuals of pixels at the ends of their range stay in the
    last term. Evaluated in float64.

    Raises:
        InputError: multipliers of a floor or a mean that the ball does not have, or the reverse.
    """
    ball = program.ball
    terms = [
        _bound_terms(part, multipliers.channels(channels).map(Tensor.double), delta[:, channels].double())
        for channels, part in program.exact
    ]
    total = _BoundTerms(*(reduce(torch.add, parts) for parts in zip(*terms, strict=True)))
    # The residual is added to the kind of constraints whose term grows least.
    extra = []
    plain = total.support
    if ball.floor is not None:
        plain = plain + total.floor
        extra.append(total.floor_with_residual - total.floor)
    if (pair := paired(ball.mean, multipliers.mean)) is not None:
        mean, mean_multiplier = pair
        multiplier, budget = mean_multiplier.double().flatten(), 1 - mean.flatten()
        squared = 4 * multiplier**2 * total.squared_norm
        with_residual = squared + 4 * multiplier * total.residual_product + total.squared_residual
        plain = plain + (squared * budget).sqrt()
        extra.append((with_residual.clamp_min(0) * budget).sqrt() - (squared * budget).sqrt())
    return plain + torch.stack(extra).amin(0)


class _BoundTerms(NamedTuple):
    """Sums over windows and pixels that make up the bound, `(B,)` each.

    Attributes:
        support: of the pixel range, at the remaining residual.
        floor, floor_with_residual: `sum R |u| + <c, u>` over the floor's balls, with u as it is and with the residual
            added to it.
        squared_norm, residual_product, squared_residual: the ellipsoid's `|K d|^2`, `<K d, residual>` and
            `|residual|^2` in its metric.
    """

    support: Tensor
    floor: Tensor
    floor_with_residual: Tensor
    squared_norm: Tensor
    residual_product: Tensor
    squared_residual: Tensor


def _bound_terms(program: Program, multipliers: Multipliers, delta: Tensor) -> _BoundTerms:
    ball, view = program.ball, program.ball.view
    anchor = torch.zeros_like(delta) if program.anchor is None else program.anchor
    moments = view.moments(delta)
    residual = _residual(program, multipliers, moments)
    excess = residual - program.rho * (delta - anchor)
    at_end = ((delta >= ball.highest - _AT_END) & (excess > 0)) | ((delta <= ball.lowest + _AT_END) & (excess < 0))
    coverage = view.coverage
    moved = torch.where(at_end | (coverage < _BARELY_COVERED), 0.0, excess / coverage.clamp_min(_BARELY_COVERED))
    support = _box_support(ball, residual - coverage * moved, program.rho, anchor)
    added = view.moments(moved)
    floor = floor_with_residual = squared = product = squared_residual = torch.zeros_like(support)
    if (pair := paired(ball.floor_sets, multipliers.floor)) is not None:
        floor, floor_with_residual = _floor_costs(*pair, moments, added)
    if (ellipsoid := ball.ellipsoid) is not None:
        squared = ellipsoid.squared_norm(moments.mean, moments.variance).flatten()
        product = per_image(delta * coverage * moved).flatten()
        squared_residual = ellipsoid.squared_dual_norm(added.mean, added.variance).flatten()
    return _BoundTerms(support, floor, floor_with_residual, squared, product, squared_residual)


def _residual(program: Program, multipliers: Multipliers, moments: Moments) -> Tensor:
    """`g - K'u` with `u_i = 2 l_i (K_i d - c_i)`, `(B, C, H, W)`."""
    ball, view, delta = program.ball, program.ball.view, moments.delta
    residual = program.linear
    if (of_floor := paired(ball.floor_sets, multipliers.floor)) is not None:
        sets, floor = of_floor
        weight, k = 2 * floor.contrast, sets.contrast.k
        of_mean = weight * moments.mean_from(k) - 2 * floor.luminance * moments.mean_from(sets.luminance.k)
        adjoint = view.adjoint(weight)
        of_reference = k * adjoint if sets.contrast.uniform else view.adjoint(k * weight)
        residual = residual - delta * adjoint + ball.reference * of_reference + view.adjoint(of_mean)
    if (of_ellipsoid := paired(ball.ellipsoid, multipliers.mean)) is not None:
        ellipsoid, multiplier = of_ellipsoid
        weight = 2 * multiplier * ellipsoid.contrast
        of_mean = (weight - 2 * multiplier * ellipsoid.luminance) * moments.mean
        residual = residual - delta * view.adjoint(weight) + view.adjoint(of_mean)
    return residual


def _floor_costs(
    sets: FloorSets, multipliers: FloorMultipliers, moments: Moments, added: Moments
) -> tuple[Tensor, Tensor]:
    """`sum R |u| + <c, u>` over the floor's balls, with u as it is and with the residual added to it, `(B,)` each.

    `added` are the moments of `r / A'1`, which is how a residual r enters the constraints.
    """
    luminance, contrast, k = sets.luminance, sets.contrast, sets.contrast.k
    view = moments.view
    mean_x, var_x = view.reference_mean, view.reference_variance
    mean_u = 2 * multipliers.luminance * moments.mean_from(luminance.k)
    weight = 2 * multipliers.contrast
    variance_v = moments.variance_from(k)
    cov_vx = moments.covariance - k * var_x
    cov_vr = view.mean(moments.delta * added.delta) - moments.mean * added.mean - k * added.covariance
    squared = (weight**2 * variance_v + 2 * weight * cov_vr + added.variance).clamp_min(0)

    def cost(mean_u: Tensor, deviation_u: Tensor, product: Tensor) -> Tensor:
        of_mean = luminance.radius * mean_u.abs() + luminance.k * mean_x * mean_u
        return (of_mean + contrast.radius * deviation_u + k * product).flatten(1).sum(1)

    without = cost(mean_u, weight * variance_v.sqrt(), weight * cov_vx)
    return without, cost(mean_u + added.mean, squared.sqrt(), weight * cov_vx + added.covariance)


def _box_support(ball: SSIMBall, residual: Tensor, rho: Tensor, anchor: Tensor) -> Tensor:
    """`max <r, d> - rho/2 |d - a|^2` over the pixel range, `(B,)`."""
    best = _box_argmax(ball, residual, rho, anchor)
    return (residual * best - rho / 2 * (best - anchor) ** 2).flatten(1).sum(1)


def _box_argmax(ball: SSIMBall, linear: Tensor, rho: Tensor, anchor: Tensor | float) -> Tensor:
    inner = anchor + linear / torch.where(rho > 0, rho, 1.0)
    vertex = torch.where(linear > 0, ball.highest, ball.lowest)
    return torch.where(rho > 0, inner, vertex).clamp(ball.lowest, ball.highest)


def best_uncovered(program: Program) -> Tensor:
    """The best value of each pixel as if no window covered it, `(B, C, H, W)`."""
    anchor = 0.0 if program.anchor is None else program.anchor
    return _box_argmax(program.ball, program.linear, program.rho, anchor)


def feasible_multipliers(program: Program) -> Multipliers:
    """Multipliers of a dual feasible point: `g + rho a = K'(K ((g + rho a) / A'1))`, split over all constraints.

    For tiles away from the pixel range and rho = 0 they are optimal. All are positive.
    """
    ball = program.ball
    moments = ball.view.moments(program.linear_term / ball.view.coverage.clamp_min(1e-3))
    mean, variance = moments.mean, moments.variance
    sets, ellipsoid = ball.floor_sets, ball.ellipsoid
    share = 1.0 if sets is None or ellipsoid is None else 0.5
    of_floor = of_mean = None
    if sets is not None:
        of_floor = FloorMultipliers(
            clamp_to_share(share * mean.abs() / (2 * sets.luminance.radius), 1e-6),
            clamp_to_share(share * variance.sqrt() / (2 * sets.contrast.radius), 1e-6),
        )
    if ellipsoid is not None:
        of_mean = share * (ellipsoid.squared_dual_norm(mean, variance) / ellipsoid.budget).sqrt() / 2
    return Multipliers(of_floor, of_mean)
