"""A ball's constraints at a perturbation, their Jacobian, and the matrix that Newton's method and adjoints solve with.

Notation of `lagrangian`: `h_i(d) = |K_i d - c_i|^2 - R_i^2 <= 0` with multipliers l, and `J` the rows `grad h_i(d)`.
A `Multipliers` holds any one number per constraint.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.batch import per_image
from percep.ball.floor import FloorSets
from percep.program import FloorMultipliers, Multipliers, paired
from percep.solvers.lagrangian import NormalEquations
from percep.solvers.preconditioner import Multilevel
from percep.ssim import Moments

_TINY = 1e-30


def squared_radii(ball: SSIMBall) -> Multipliers:
    """`R^2` of every constraint."""
    sets, ellipsoid = ball.floor_sets, ball.ellipsoid
    return Multipliers(
        None if sets is None else FloorMultipliers(sets.luminance.radius**2, sets.contrast.radius**2),
        None if ellipsoid is None else ellipsoid.budget,
    )


class Constraints:
    """The constraints of a ball at `delta`, `(B, C, H, W)`, matrix-free: a few local means per product.

    Everything is plain torch, so values and products can be differentiated in the reference and the levels of an
    `SSIMBall.attached`.
    """

    def __init__(self, ball: SSIMBall, delta: Tensor) -> None:
        self.ball, self.delta, self.view = ball, delta, ball.view
        self.moments = ball.view.moments(delta)
        self.floor = None if ball.floor_sets is None else _FloorConstraints(ball.floor_sets, self.moments)

    @cached_property
    def row(self) -> Tensor:
        """The mean's row of J, `(B, C, H, W)`; 0 without a mean."""
        weights = self.ball.ellipsoid
        if weights is None:
            return torch.zeros_like(self.delta)
        of_mean = self._adjoint((weights.luminance - weights.contrast) * self.moments.mean)
        return 2 * of_mean + 2 * self.delta * self._adjoint(weights.contrast)

    @property
    def values(self) -> Multipliers:
        """`h(d)`."""
        ellipsoid, moments = self.ball.ellipsoid, self.moments
        return Multipliers(
            None if self.floor is None else self.floor.values,
            None if ellipsoid is None else ellipsoid.squared_norm(moments.mean, moments.variance) - ellipsoid.budget,
        )

    def along(self, direction: Tensor, mean: Tensor | None = None) -> Multipliers:
        """`J w`; `mean` is the local mean of w where it is known."""
        mean = self.view.mean(direction) if mean is None else mean
        return Multipliers(
            None if self.floor is None else self.floor.along(direction, mean),
            None if self.ball.ellipsoid is None else per_image(self.row * direction),
        )

    def vjp(self, multipliers: Multipliers, means: Tensor | None = None) -> Tensor:
        """`J' t + A' means`, `(B, C, H, W)`."""
        if (pair := paired(self.floor, multipliers.floor)) is not None:
            floor, weights = pair
            of_mean, result = floor.vjp(weights, self._adjoint)
            means = of_mean if means is None else means + of_mean
        else:
            result = torch.zeros_like(self.delta)
        if means is not None:
            result = result + self._adjoint(means)
        if multipliers.mean is not None:
            result = result + self.row * multipliers.mean
        return result

    def squared(self, weights: Multipliers) -> Tensor:
        """The diagonal of `J' diag(D) J`, the ellipsoid's share aside: exact away from mirrored pixels."""
        if (pair := paired(self.floor, weights.floor)) is None:
            return torch.zeros_like(self.delta)
        floor, floor_weights = pair
        return floor.squared(floor_weights)

    def _adjoint(self, values: Tensor) -> Tensor:
        return self.view.adjoint(values.expand(-1, *self.ball.map_shape[1:]))


class _FloorConstraints:
    """A floor's part of `Constraints`: `h` and the rows of J, of `v = d - k x` the means and deviations."""

    def __init__(self, sets: FloorSets, moments: Moments) -> None:
        self.sets, self.moments, self.view = sets, moments, moments.view
        self.k = sets.contrast.k
        self.luminance_mean = moments.mean_from(sets.luminance.k)
        self.contrast_mean = moments.mean_from(self.k)
        # Where k is one number per image, the pixels of d - k x; else k and x are kept apart.
        self.uniform = sets.contrast.uniform
        self.shifted = moments.delta - self.k * self.view.reference if self.uniform else moments.delta

    @property
    def values(self) -> FloorMultipliers:
        luminance, contrast = self.sets.luminance, self.sets.contrast
        return FloorMultipliers(
            self.luminance_mean**2 - luminance.radius**2,
            self.moments.variance_from(contrast.k) - contrast.radius**2,
        )

    def along(self, direction: Tensor, mean: Tensor) -> FloorMultipliers:
        product = self.view.mean(self.shifted * direction) - self.contrast_mean * mean
        if not self.uniform:
            product = product - self.k * self.view.mean(self.view.reference * direction)
        return FloorMultipliers(2 * self.luminance_mean * mean, 2 * product)

    def vjp(self, weights: FloorMultipliers, adjoint: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """`J' t` as values per window, to which the adjoint is still to be applied, and values per pixel."""
        of_mean = 2 * (self.luminance_mean * weights.luminance - self.contrast_mean * weights.contrast)
        result = 2 * self.shifted * adjoint(weights.contrast)
        if not self.uniform:
            result = result - 2 * self.view.reference * adjoint(self.k * weights.contrast)
        return of_mean, result

    def squared(self, weights: FloorMultipliers) -> Tensor:
        shape = self.view.reference_mean.shape

        def adjoint(values: Tensor) -> Tensor:
            return self.view.squared_adjoint(values.expand(shape))

        weight, shifted = weights.contrast, self.shifted
        total = shifted * shifted * adjoint(weight) - 2 * shifted * adjoint(weight * self.contrast_mean)
        total = total + adjoint(weights.luminance * self.luminance_mean**2 + weight * self.contrast_mean**2)
        if not self.uniform:
            k, x = self.k, self.view.reference
            crossed = adjoint(weight * k * self.contrast_mean) - shifted * adjoint(weight * k)
            total = total + x * x * adjoint(weight * k * k) + 2 * x * crossed
        return 4 * total.clamp_min(0)


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
        mean = self.constraints.view.mean(values)
        multipliers = self.stiffness.join(self.constraints.along(values, mean), torch.mul)
        return self.constraints.vjp(multipliers, self.equations.inner * mean).addcmul_(self.diagonal, values)

    def dense(self) -> Tensor:
        """H of a single image, `(n, n)` with n its pixels times channels."""
        shape = self.constraints.delta.shape[1:]
        identity = torch.eye(shape.numel(), dtype=self.box.dtype, device=self.box.device)
        columns = self.product(identity.reshape(-1, *shape)).reshape(identity.shape)
        return (columns + columns.T) / 2

    @cached_property
    def preconditioner(self) -> "Smoother":
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
        view = constraints.view
        inner = equations.inner.expand(-1, *constraints.ball.map_shape[1:])
        own = equations.exact_diagonal
        total = own + constraints.squared(stiffness) + matrix.box
        self.reached = total > _TINY
        self.free = (matrix.box < own) & self.reached
        # Both hold rho: where it dominates, the diagonal is enough and smooth corrections are to stay small.
        of_variance = equations.diagonal
        mass = equations.diagonal + view.adjoint(inner) + self.free * matrix.box
        if (pair := paired(constraints.floor, stiffness.floor)) is not None:
            floor, weights = pair
            share = view.squared_mean(torch.ones_like(total[:1, :1]))
            stiff = 4 * weights.contrast * floor.sets.contrast.radius**2 * share
            of_variance = of_variance + view.adjoint(stiff)
            mass = mass + view.adjoint(4 * weights.luminance * floor.luminance_mean**2)
        self.inverse = torch.where(self.reached, 1 / total.clamp_min(_TINY), 0.0)
        self.multilevel = Multilevel(view.window, total, of_variance, mass)

    def __call__(self, residual: Tensor) -> Tensor:
        smooth = self.multilevel(torch.where(self.free, residual, 0.0))
        return torch.where(self.free, smooth, self.inverse * residual)
