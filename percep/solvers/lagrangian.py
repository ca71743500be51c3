"""The Lagrangian of a program: its linear system, and the rigorous bound that any multipliers give.

Notation of the modules in this package: every constraint is `|K_i d - c_i| <= R_i` with multiplier `l_i` of its
square, `u_i = 2 l_i (K_i d - c_i)`; the pixel range is kept out of the multipliers and handled exactly.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.kernels.arguments import no_less
from percep.program import Multipliers, Program
from percep.solvers.quadratic import WindowQuadratic, per_image
from percep.ssim import variance

# A pixel within this of an end of the range may leave its residual to it; one covered by less than this share of a
# window does.
_AT_END = 1e-4
_BARELY_COVERED = 1e-3


class NormalEquations(WindowQuadratic):
    """Stationarity in d at fixed multipliers, pixel range aside: `M d = b`, matrix-free.

        M = diag(2 A' q + rho) + 2 A' diag(p - q) A
        b = g + rho a + 2 k2 (A'(l2) x - A'(l2 A x)) + 2 k1 A'(l1 A x)

    `p` and `q` are the total prices of a window's squared mean and of its variance: the floor's multipliers l1
    and l2 plus the mean's multiplier times its weights. M is positive definite wherever a window or rho reaches.
    """

    def __init__(self, program: Program, multipliers: Multipliers) -> None:
        ball = program.ball
        size = (int(ball.reference.shape[-2]), int(ball.reference.shape[-1]))
        mean_price: Tensor | float = 0.0
        variance_price: Tensor | float = 0.0
        if multipliers.luminance is not None and multipliers.contrast is not None:
            mean_price, variance_price = multipliers.luminance, multipliers.contrast
        if multipliers.mean is not None:
            assert ball.ellipsoid is not None
            mean_price = mean_price + multipliers.mean * ball.ellipsoid.luminance
            variance_price = variance_price + multipliers.mean * ball.ellipsoid.contrast
        assert isinstance(mean_price, Tensor) and isinstance(variance_price, Tensor)
        super().__init__(ball.window, size, mean_price, variance_price, program.rho)
        self.rhs = program.pull
        if multipliers.luminance is not None and multipliers.contrast is not None:
            assert ball.luminance is not None and ball.contrast is not None
            first, second = ball.luminance.k * multipliers.luminance, ball.contrast.k * multipliers.contrast
            spread = self.spread_variance / 2 if multipliers.mean is None else self._spread(multipliers.contrast)
            pulled = ball.contrast.k * spread if ball.contrast.uniform else self._spread(second)
            self.rhs = torch.addcmul(self.rhs, ball.reference, pulled, value=2)
            self.rhs = self.rhs.add_(self._spread((first - second) * ball.reference_mean), alpha=2)


def dual_bound(program: Program, multipliers: Multipliers, delta: Tensor) -> Tensor:
    """An upper bound on the program's optimum, `(B,)`, valid for ANY multipliers and any `delta`.

    With `u_i = 2 l_i (K_i delta - c_i)` and `r = g - K'u`, weak duality gives, for every feasible d,

        <g, d> - rho/2 |d - a|^2 <= sum_i (R_i |u_i| + <c_i, u_i>) + max_box (<r, d> - rho/2 |d - a|^2).

    The residual that stationarity leaves at `delta` is not paid for by the pixel range, which is wide, but first
    moved into u: `r = K'(K (r / A'1))`, since the window's means and deviations together give back A'1 times the
    image. What is kept for the pixel range is the multiplier of pixels at its ends. Evaluated in float64.
    """
    total: _BoundTerms | None = None
    for channels, part in program.exact:
        prices = multipliers.channels(channels).map(Tensor.double)
        terms = _bound_terms(part, prices, delta[:, channels].double())
        total = terms if total is None else _BoundTerms(*(a + b for a, b in zip(total, terms, strict=True)))
    assert total is not None
    # The residual goes to the group of constraints that pays least for it.
    extra = []
    plain = total.support
    if program.ball.floor is not None:
        plain = plain + total.floor
        extra.append(total.floor_with - total.floor)
    if program.ball.mean is not None:
        assert multipliers.mean is not None
        price, budget = multipliers.mean.double().flatten(), 1 - program.ball.mean.flatten()
        squared = 4 * price**2 * total.spent
        with_it = (squared + 4 * price * total.aligned + total.added).clamp_min(0)
        plain = plain + (squared * budget).sqrt()
        extra.append((with_it * budget).sqrt() - (squared * budget).sqrt())
    return plain + torch.stack(extra).amin(0)


class _BoundTerms(NamedTuple):
    """Sums over windows and pixels that make up the bound, `(B,)` each.

    Attributes:
        support: of the pixel range, at the residual left to it.
        floor, floor_with: `sum R |u| + <c, u>` over the floor's balls, without and with the residual added to u.
        spent, aligned, added: the ellipsoid's `|K d|^2`, `<K d, residual>` and `|residual|^2` in its metric.
    """

    support: Tensor
    floor: Tensor
    floor_with: Tensor
    spent: Tensor
    aligned: Tensor
    added: Tensor


def _bound_terms(program: Program, multipliers: Multipliers, delta: Tensor) -> _BoundTerms:
    ball, window = program.ball, program.ball.window
    size = (int(delta.shape[-2]), int(delta.shape[-1]))
    rho = program.rho
    anchor = torch.zeros_like(delta) if program.anchor is None else program.anchor
    coverage = window.adjoint(delta.new_ones(1, 1, *ball.map_shape[2:]), *size)
    local = _LocalMoments(delta, window.mean(delta), ball)

    residual = program.linear
    if multipliers.luminance is not None and multipliers.contrast is not None:
        assert ball.luminance is not None and ball.contrast is not None
        price, k, mean_x = 2 * multipliers.contrast, ball.contrast.k, ball.reference_mean
        of_mean = price * (local.mean - k * mean_x) - 2 * multipliers.luminance * (
            local.mean - ball.luminance.k * mean_x
        )
        spread = window.adjoint(price, *size)
        pulled = k * spread if ball.contrast.uniform else window.adjoint(k * price, *size)
        residual = residual - delta * spread + ball.reference * pulled + window.adjoint(of_mean, *size)
    if multipliers.mean is not None:
        assert ball.ellipsoid is not None
        price = 2 * multipliers.mean * ball.ellipsoid.contrast
        of_mean = (price - 2 * multipliers.mean * ball.ellipsoid.luminance) * local.mean
        residual = residual - delta * window.adjoint(price, *size) + window.adjoint(of_mean, *size)

    excess = residual - rho * (delta - anchor)
    at_end = ((delta >= ball.highest - _AT_END) & (excess > 0)) | ((delta <= ball.lowest + _AT_END) & (excess < 0))
    moved = torch.where(at_end | (coverage < _BARELY_COVERED), 0.0, excess / coverage.clamp_min(_BARELY_COVERED))
    support = _box_support(ball, residual - coverage * moved, rho, anchor)
    mean_r = window.mean(moved)
    added = _Added(moved, mean_r, variance(window, moved, mean_r))
    floor = floor_with = spent = aligned = extra = torch.zeros_like(support)
    if ball.floor is not None:
        floor, floor_with = _floor_costs(ball, multipliers, local, added)
    if (weights := ball.ellipsoid) is not None:
        spent = per_image(weights.luminance * local.mean**2 + weights.contrast * local.variance).flatten()
        aligned = per_image(delta * coverage * moved).flatten()
        extra = per_image(added.mean**2 / weights.luminance + added.variance / weights.contrast).flatten()
    return _BoundTerms(support, floor, floor_with, spent, aligned, extra)


class _LocalMoments:
    """Mean, variance and covariance with the reference of a perturbation, per window."""

    def __init__(self, delta: Tensor, mean: Tensor, ball: SSIMBall) -> None:
        self.delta, self.mean = delta, mean
        self.variance = variance(ball.window, delta, mean)
        if ball.floor is not None:
            self.covariance = ball.window.mean(delta * ball.reference) - mean * ball.reference_mean


class _Added(NamedTuple):
    """A residual on its way into the constraints, `r / A'1`, with its local mean and variance."""

    moved: Tensor
    mean: Tensor
    variance: Tensor


def _floor_costs(
    ball: SSIMBall, multipliers: Multipliers, local: _LocalMoments, added: _Added
) -> tuple[Tensor, Tensor]:
    """`sum R |u| + <c, u>` over the floor's balls, without and with the added residual, `(B,)` each."""
    assert ball.luminance is not None and ball.contrast is not None
    assert multipliers.luminance is not None and multipliers.contrast is not None
    window, k, mean_x, var_x = ball.window, ball.contrast.k, ball.reference_mean, ball.reference_variance
    mean_u = 2 * multipliers.luminance * (local.mean - ball.luminance.k * mean_x)
    price = 2 * multipliers.contrast
    variance_v = (local.variance - 2 * k * local.covariance + k * k * var_x).clamp_min(0)
    cov_vx = local.covariance - k * var_x
    cov_rx = window.mean(added.moved * ball.reference) - added.mean * mean_x
    cov_vr = window.mean(local.delta * added.moved) - local.mean * added.mean - k * cov_rx
    squared = (price**2 * variance_v + 2 * price * cov_vr + added.variance).clamp_min(0)

    luminance, contrast = ball.luminance, ball.contrast

    def cost(mean_u: Tensor, deviation_u: Tensor, aligned: Tensor) -> Tensor:
        of_mean = luminance.radius * mean_u.abs() + luminance.k * mean_x * mean_u
        return (of_mean + contrast.radius * deviation_u + k * aligned).flatten(1).sum(1)

    without = cost(mean_u, price * variance_v.sqrt(), price * cov_vx)
    return without, cost(mean_u + added.mean, squared.sqrt(), price * cov_vx + cov_rx)


def _box_support(ball: SSIMBall, residual: Tensor, rho: Tensor, anchor: Tensor) -> Tensor:
    """`max <r, d> - rho/2 |d - a|^2` over the pixel range, `(B,)`."""
    best = _box_argmax(ball, residual, rho, anchor)
    return (residual * best - rho / 2 * (best - anchor) ** 2).flatten(1).sum(1)


def _box_argmax(ball: SSIMBall, pull: Tensor, rho: Tensor, anchor: Tensor | float) -> Tensor:
    inner = anchor + pull / torch.where(rho > 0, rho, 1.0)
    vertex = torch.where(pull > 0, ball.highest, ball.lowest)
    return torch.where(rho > 0, inner, vertex).clamp(ball.lowest, ball.highest)


def best_uncovered(program: Program) -> Tensor:
    """The best value of each pixel as if no window covered it, `(B, C, H, W)`."""
    anchor = 0.0 if program.anchor is None else program.anchor
    return _box_argmax(program.ball, program.linear, program.rho, anchor)


def feasible_multipliers(program: Program) -> Multipliers:
    """Multipliers of a dual feasible point: `g + rho a = K'(K ((g + rho a) / A'1))`, split over all constraints.

    For tiles away from the pixel range and rho = 0 they are optimal. None is 0.
    """
    ball, window = program.ball, program.ball.window
    height, width = (int(side) for side in ball.reference.shape[-2:])
    coverage = window.adjoint(program.linear.new_ones(1, 1, *ball.map_shape[2:]), height, width)
    pull = program.pull / coverage.clamp_min(1e-3)
    mean_g = window.mean(pull)
    variance_g = variance(window, pull, mean_g)
    share = 1.0 if ball.ellipsoid is None or ball.contrast is None else 0.5
    luminance = contrast = mean = None
    if ball.luminance is not None and ball.contrast is not None:
        luminance = no_less(share * mean_g.abs() / (2 * ball.luminance.radius), 1e-6)
        contrast = no_less(share * variance_g.sqrt() / (2 * ball.contrast.radius), 1e-6)
    if ball.ellipsoid is not None:
        squared = per_image(mean_g**2 / ball.ellipsoid.luminance + variance_g / ball.ellipsoid.contrast)
        mean = share * (squared / ball.ellipsoid.budget).sqrt() / 2
    return Multipliers(luminance, contrast, mean)
