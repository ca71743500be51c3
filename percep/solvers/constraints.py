"""A ball's constraints at a perturbation, their Jacobian, and the matrix that Newton's method and adjoints solve with.

Notation of `lagrangian`: `h_i(d) = |K_i d - c_i|^2 - R_i^2 <= 0` with multipliers l, and `J` the rows `grad h_i(d)`.
A `Multipliers` holds any one number per constraint.
"""

from functools import cached_property

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.program import Multipliers
from percep.solvers.lagrangian import NormalEquations
from percep.solvers.preconditioner import Multilevel
from percep.solvers.quadratic import per_image

_TINY = 1e-30


def squared_radii(ball: SSIMBall) -> Multipliers:
    """`R^2` of every constraint."""
    return Multipliers(
        None if ball.luminance is None else ball.luminance.radius**2,
        None if ball.contrast is None else ball.contrast.radius**2,
        None if ball.ellipsoid is None else ball.ellipsoid.budget,
    )


def parts(values: Multipliers) -> list[Tensor]:
    """The tensors that are there."""
    return [part for part in (values.luminance, values.contrast, values.mean) if part is not None]


class Constraints:
    """The constraints of a ball at `delta`, `(B, C, H, W)`, matrix-free: a few local means per product.

    Everything is plain torch, so values and products can be differentiated in the reference and the levels of an
    `SSIMBall.attached`.
    """

    def __init__(self, ball: SSIMBall, delta: Tensor) -> None:
        self.ball, self.delta, self.window = ball, delta, ball.window
        self.size = (int(delta.shape[-2]), int(delta.shape[-1]))
        self.mean = ball.window.mean(delta)
        # Where k is one number per image, the pixels and the mean of d - k x; else k and x are kept apart.
        self.uniform = ball.contrast is None or ball.contrast.uniform
        if ball.luminance is not None and ball.contrast is not None:
            k = ball.contrast.k
            self.shift = self.mean - ball.luminance.k * ball.reference_mean
            self.mean_about = self.mean - k * ball.reference_mean
            self.about = delta - k * ball.reference if self.uniform else delta

    @cached_property
    def row(self) -> Tensor:
        """The mean's row of J, `(B, C, H, W)`."""
        weights = self.ball.ellipsoid
        assert weights is not None
        of_mean = self._spread((weights.luminance - weights.contrast) * self.mean)
        return 2 * of_mean + 2 * self.delta * self._spread(weights.contrast)

    @property
    def values(self) -> Multipliers:
        """`h(d)`."""
        ball, delta = self.ball, self.delta
        luminance = contrast = mean = None
        spread = self.window.mean(delta * delta) - self.mean**2
        if ball.luminance is not None and ball.contrast is not None:
            k = ball.contrast.k
            cov = self.window.mean(delta * ball.reference) - self.mean * ball.reference_mean
            luminance = self.shift**2 - ball.luminance.radius**2
            contrast = spread - 2 * k * cov + k * k * ball.reference_variance - ball.contrast.radius**2
        if ball.ellipsoid is not None:
            spent = ball.ellipsoid.luminance * self.mean**2 + ball.ellipsoid.contrast * spread
            mean = per_image(spent) - ball.ellipsoid.budget
        return Multipliers(luminance, contrast, mean)

    def along(self, direction: Tensor, mean: Tensor | None = None) -> Multipliers:
        """`J w`; `mean` is the local mean of w where it is known."""
        ball, window = self.ball, self.window
        mean = window.mean(direction) if mean is None else mean
        luminance = contrast = total = None
        if ball.luminance is not None and ball.contrast is not None:
            luminance = 2 * self.shift * mean
            product = window.mean(self.about * direction) - self.mean_about * mean
            if not self.uniform:
                product = product - ball.contrast.k * window.mean(ball.reference * direction)
            contrast = 2 * product
        if ball.ellipsoid is not None:
            total = per_image(self.row * direction)
        return Multipliers(luminance, contrast, total)

    def pull(self, prices: Multipliers, means: Tensor | float = 0.0) -> Tensor:
        """`J' t + A' means`."""
        result: Tensor | float = 0.0
        if prices.luminance is not None and prices.contrast is not None:
            assert self.ball.contrast is not None
            means = means + 2 * (self.shift * prices.luminance - self.mean_about * prices.contrast)
            result = 2 * self.about * self._spread(prices.contrast)
            if not self.uniform:
                result = result - 2 * self.ball.reference * self._spread(self.ball.contrast.k * prices.contrast)
        if isinstance(means, Tensor):
            result = result + self._spread(means)
        if prices.mean is not None:
            result = result + self.row * prices.mean
        assert isinstance(result, Tensor)
        return result

    def squared(self, weights: Multipliers) -> Tensor:
        """The diagonal of `J' diag(D) J`, the ellipsoid's share aside: exact away from mirrored pixels."""
        ball = self.ball
        if weights.luminance is None or weights.contrast is None or ball.contrast is None:
            return torch.zeros_like(self.delta)

        def spread(values: Tensor) -> Tensor:
            return self.window.squared_adjoint(values.expand(ball.map_shape), *self.size)

        weight, about = weights.contrast, self.about
        total = about * about * spread(weight) - 2 * about * spread(weight * self.mean_about)
        total = total + spread(weights.luminance * self.shift**2 + weight * self.mean_about**2)
        if not self.uniform:
            k, x = ball.contrast.k, ball.reference
            crossed = spread(weight * k * self.mean_about) - about * spread(weight * k)
            total = total + x * x * spread(weight * k * k) + 2 * x * crossed
        return 4 * total.clamp_min(0)

    def _spread(self, values: Tensor) -> Tensor:
        return self.window.adjoint(values.expand(-1, *self.ball.map_shape[1:]), *self.size)


class NewtonMatrix:
    """`H = M(l) + J' diag(D) J + diag(box)`, symmetric and positive definite: two local means per product.

    With `D = l / -h` and `box` the multiplier of a pixel's range over its distance to the range's end, this is the
    matrix of the perturbed optimality conditions `l_i h_i = -mu_i`, reduced to the pixels.

    Args:
        equations: those of M.
        constraints: those of the program's ball, at the perturbation.
        stiffness: D.
        box: `(B, C, H, W)`, at least 0.
    """

    def __init__(
        self, equations: NormalEquations, constraints: Constraints, stiffness: Multipliers, box: Tensor
    ) -> None:
        self.equations, self.constraints, self.stiffness, self.box = equations, constraints, stiffness, box
        self.diagonal = equations.diagonal + box

    def product(self, values: Tensor) -> Tensor:
        """`H v`."""
        mean = self.constraints.window.mean(values)
        prices = self.stiffness.join(self.constraints.along(values, mean), torch.mul)
        return self.constraints.pull(prices, self.equations.inner * mean).addcmul_(self.diagonal, values)

    def dense(self) -> Tensor:
        """H of a single image, `(n, n)` with n its pixels times channels."""
        shape = self.constraints.delta.shape[1:]
        identity = torch.eye(shape.numel(), dtype=self.box.dtype, device=self.box.device)
        columns = self.product(identity.reshape(-1, *shape)).reshape(identity.shape)
        return (columns + columns.T) / 2

    @cached_property
    def precondition(self) -> "Smoother":
        """An approximate inverse of H."""
        return Smoother(self)


class Smoother:
    """The multilevel preconditioner with the constraints' and the pixel range's stiffness added.

    On what is smooth, a stiff window mean is one more mass. A stiff deviation, whose row is `v - mean(v)`, sees
    little of it when v oscillates: as much as it sees of an unrelated image of the same variance. Pixels held by
    the range are only scaled.
    """

    def __init__(self, matrix: NewtonMatrix) -> None:
        constraints, stiffness, equations = matrix.constraints, matrix.stiffness, matrix.equations
        window, size = constraints.window, constraints.size
        inner = equations.inner.expand(-1, *constraints.ball.map_shape[1:])
        own = equations.exact_diagonal
        total = own + constraints.squared(stiffness) + matrix.box
        self.reached = total > _TINY
        self.free = (matrix.box < own) & self.reached
        # Both hold rho: where it dominates, the diagonal is enough and smooth corrections are to stay small.
        variance_price = equations.diagonal
        mass = equations.diagonal + window.adjoint(inner, *size) + self.free * matrix.box
        if stiffness.luminance is not None and stiffness.contrast is not None:
            assert constraints.ball.contrast is not None
            share = window.squared_mean(torch.ones_like(total[:1, :1]))
            price = 4 * stiffness.contrast * constraints.ball.contrast.radius**2 * share
            variance_price = variance_price + window.adjoint(price, *size)
            mass = mass + window.adjoint(4 * stiffness.luminance * constraints.shift**2, *size)
        self.inverse = torch.where(self.reached, 1 / total.clamp_min(_TINY), 0.0)
        self.multilevel = Multilevel(window, total, variance_price, mass)

    def __call__(self, residual: Tensor) -> Tensor:
        smooth = self.multilevel(torch.where(self.free, residual, 0.0))
        return torch.where(self.free, smooth, self.inverse * residual)
