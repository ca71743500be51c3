"""The Lagrangian of a program: its linear system, and the rigorous bound that any multipliers give.

Notation of the modules in this package: every constraint is `|K_i d - c_i| <= R_i` with multiplier `l_i` of its
square, `u_i = 2 l_i (K_i d - c_i)`; the pixel range is kept out of the multipliers and handled exactly.
"""

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.program import Multipliers, Program
from percep.solvers.preconditioner import Multilevel
from percep.ssim import variance


def per_image(values: Tensor) -> Tensor:
    """Sum over everything but the batch, `(B, 1, 1, 1)`."""
    return values.flatten(1).sum(1).reshape(-1, 1, 1, 1)


class NormalEquations:
    """Stationarity in d at fixed multipliers, pixel range aside: `M d = b`, matrix-free.

        M = diag(2 A' q + rho) + 2 A' diag(p - q) A
        b = g + rho a + 2 k2 (A'(l2) x - A'(l2 A x)) + 2 k1 A'(l1 A x)

    `p` and `q` are the total prices of a window's squared mean and of its variance: the floor's multipliers l1
    and l2 plus the mean's multiplier times its weights. M is positive definite wherever a window or rho reaches.
    """

    def __init__(self, program: Program, multipliers: Multipliers) -> None:
        ball = program.ball
        self.window = ball.window
        self.size = (int(ball.reference.shape[-2]), int(ball.reference.shape[-1]))
        mean_price: Tensor | float = 0.0
        variance_price: Tensor | float = 0.0
        self.right = program.linear
        if program.anchor is not None:
            self.right = self.right + program.rho * program.anchor
        if multipliers.luminance is not None and multipliers.contrast is not None:
            assert ball.luminance is not None and ball.contrast is not None
            mean_price, variance_price = multipliers.luminance, multipliers.contrast
            first, second = ball.luminance.k * mean_price, ball.contrast.k * variance_price
            self.right = (
                self.right
                + 2 * ball.reference * self._spread(second)
                + 2 * self._spread((first - second) * ball.reference_mean)
            )
        if multipliers.mean is not None:
            assert ball.ellipsoid is not None
            mean_price = mean_price + multipliers.mean * ball.ellipsoid.luminance
            variance_price = variance_price + multipliers.mean * ball.ellipsoid.contrast
        assert isinstance(mean_price, Tensor) and isinstance(variance_price, Tensor)
        self.inner = 2 * (mean_price - variance_price)
        spread_variance = 2 * self._spread(variance_price)
        self.diagonal = spread_variance + program.rho
        # Squared weights give the exact diagonal of M away from mirrored pixels.
        diagonal = self.diagonal + self.window.squared_adjoint(self.inner, *self.size)
        self.preconditioner = Multilevel(
            self.window,
            torch.maximum(diagonal, 1e-6 * self.diagonal),
            spread_variance,
            self.diagonal + self._spread(self.inner),
        )

    def _spread(self, values: Tensor) -> Tensor:
        return self.window.adjoint(values, *self.size)

    def product(self, values: Tensor) -> Tensor:
        """`M v`, one local mean and one adjoint."""
        return self._spread(self.inner * self.window.mean(values)).addcmul_(self.diagonal, values)


def dual_bound(program: Program, multipliers: Multipliers, delta: Tensor) -> Tensor:
    """An upper bound on the program's optimum, `(B,)`, valid for ANY multipliers and any `delta`.

    With `u_i = 2 l_i (K_i delta - c_i)` and `r = g - K'u`, weak duality gives, for every feasible d,

        <g, d> - rho/2 |d - a|^2 <= sum_i (R_i |u_i| + <c_i, u_i>) + max_box (<r, d> - rho/2 |d - a|^2).

    The residual that stationarity leaves at `delta` is not paid for by the pixel range, which is wide, but first
    moved into u: `r = K'(K (r / A'1))`, since the window's means and deviations together give back A'1 times the
    image. What is kept for the pixel range is the multiplier of pixels at its ends. Evaluate in float64.
    """
    ball, window = program.ball, program.ball.window
    height, width = (int(side) for side in ball.reference.shape[-2:])
    rho = program.rho
    anchor = torch.zeros_like(delta) if program.anchor is None else program.anchor
    coverage = window.adjoint(delta.new_ones(1, 1, *ball.map_shape[2:]), height, width)
    mean_d = window.mean(delta)

    residual = program.linear
    parts: list[tuple[Tensor, Tensor]] = []
    if multipliers.luminance is not None and multipliers.contrast is not None:
        assert ball.luminance is not None and ball.contrast is not None
        mean_u = 2 * multipliers.luminance * (mean_d - ball.luminance.k * ball.reference_mean)
        residual = residual - window.adjoint(mean_u, height, width)
        price = 2 * multipliers.contrast
        mean_v = mean_d - ball.contrast.k * ball.reference_mean
        pulled = price * ball.contrast.k
        residual = (
            residual
            - delta * window.adjoint(price, height, width)
            + ball.reference * window.adjoint(pulled, height, width)
            + window.adjoint(price * mean_v, height, width)
        )
        parts.append((mean_u, price))
    spent = delta.new_zeros(ball.batch, 1, 1, 1)
    if multipliers.mean is not None:
        assert ball.ellipsoid is not None
        variance_d = variance(window, delta, mean_d)
        spent = per_image(ball.ellipsoid.luminance * mean_d**2 + ball.ellipsoid.contrast * variance_d)
        first = 2 * multipliers.mean * ball.ellipsoid.luminance
        second = 2 * multipliers.mean * ball.ellipsoid.contrast
        residual = (
            residual
            - delta * window.adjoint(second, height, width)
            - window.adjoint((first - second) * mean_d, height, width)
        )

    target = rho * (delta - anchor)
    excess = residual - target
    margin = 1e-9
    held = ((delta >= ball.highest - margin) & (excess > 0)) | ((delta <= ball.lowest + margin) & (excess < 0))
    moved = torch.where(held | (coverage < 1e-3), 0.0, excess / coverage.clamp_min(1e-3))
    outside = _box_support(ball, residual - coverage * moved, rho, anchor)
    unmoved = _box_support(ball, residual, rho, anchor)

    mean_r = window.mean(moved)
    variance_r = variance(window, moved, mean_r)
    floor_plain, floor_moved = _floor_terms(ball, parts, delta, mean_d, moved, mean_r, variance_r)
    if ball.ellipsoid is None or multipliers.mean is None:
        return torch.minimum(outside + floor_moved, unmoved + floor_plain)
    budget = ball.ellipsoid.budget
    plain = (4 * multipliers.mean**2 * spent * budget).sqrt()
    extra = per_image(mean_r**2 / ball.ellipsoid.luminance + variance_r / ball.ellipsoid.contrast)
    cross = 4 * multipliers.mean * per_image(delta * coverage * moved)
    moved_norm = (4 * multipliers.mean**2 * spent + cross + extra).clamp_min(0)
    through_mean = outside + floor_plain + (moved_norm * budget).sqrt().flatten()
    best = torch.minimum(through_mean, unmoved + floor_plain + plain.flatten())
    if parts:
        best = torch.minimum(best, outside + floor_moved + plain.flatten())
    return best


def _floor_terms(
    ball: SSIMBall,
    parts: list[tuple[Tensor, Tensor]],
    delta: Tensor,
    mean_d: Tensor,
    moved: Tensor,
    mean_r: Tensor,
    variance_r: Tensor,
) -> tuple[Tensor, Tensor]:
    """`sum R |u| + <c, u>` over the floor's balls, without and with the moved residual."""
    if not parts:
        return delta.new_zeros(ball.batch), delta.new_zeros(ball.batch)
    assert ball.luminance is not None and ball.contrast is not None
    (mean_u, price), window = parts[0], ball.window
    k, mean_x = ball.contrast.k, ball.reference_mean
    cov_dx = window.mean(delta * ball.reference) - mean_d * mean_x
    variance_v = variance(window, delta, mean_d) - 2 * k * cov_dx + k * k * ball.reference_variance
    cov_vx = cov_dx - k * ball.reference_variance
    plain = (
        ball.luminance.radius * mean_u.abs()
        + ball.luminance.k * mean_x * mean_u
        + ball.contrast.radius * price * variance_v.clamp_min(0).sqrt()
        + k * price * cov_vx
    )
    cov_dr = window.mean(delta * moved) - mean_d * mean_r
    cov_rx = window.mean(moved * ball.reference) - mean_r * mean_x
    cov_vr = cov_dr - k * cov_rx
    squared = price**2 * variance_v + 2 * price * cov_vr + variance_r
    total_u = mean_u + mean_r
    with_residual = (
        ball.luminance.radius * total_u.abs()
        + ball.luminance.k * mean_x * total_u
        + ball.contrast.radius * squared.clamp_min(0).sqrt()
        + k * (price * cov_vx + cov_rx)
    )
    return plain.flatten(1).sum(1), with_residual.flatten(1).sum(1)


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
    pull = program.linear if program.anchor is None else program.linear + program.rho * program.anchor
    pull = pull / coverage.clamp_min(1e-3)
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


def no_less(multipliers: Tensor, share: float) -> Tensor:
    """Multipliers kept above a share of the image's largest, so that none is lost for good."""
    return torch.maximum(multipliers, share * multipliers.flatten(1).amax(1).reshape(-1, 1, 1, 1))
