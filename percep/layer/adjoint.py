"""The adjoint of a solved program: from a cotangent of the perturbation to the gradients in everything it depends on.

At a solution `(d, l)` with pixel multipliers z the optimality conditions are, with `h_i <= 0` the constraints,

    -g + rho (d - a) + sum_i l_i grad h_i(d) + z = 0,        l_i h_i = -mu_i,        z_j * distance_j = mu_j

with all mu 0 at the exact solution. Differentiated at fixed mu and reduced to the pixels they read `H dd = -F dp`,
with H the `NewtonMatrix` of `D = l / -h`. The gradient of a loss is that of the contraction

    phi(p) = -<w, grad_d L(d, l; p)> - <D J w, h(d; p)> - <box w, x>,        H w = cotangent,

in which everything but the parameters p is held fixed. So one symmetric linear solve and one differentiation of a few
local statistics give the gradients in the reference (through radii, centres, weights and the pixel range), the
linear term, the anchor, rho, the floor and the mean (Amos and Kolter, ICML 2017, give the dense case).

**Smoothing.** The solution map has kinks where a constraint is active with multiplier 0, and at rho = 0 it may
jump. `-h_i` is taken to be at least `smoothing * R_i^2`: the derivative returned is then that of the
program with logarithmic barriers `mu_i = l_i max(-h_i, smoothing R_i^2)` in place of the constraints, at
fixed mu. Where the solution map is differentiable it tends to the derivative as smoothing goes to 0; at a kink it
is a convex mixture of the one-sided ones.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.batch import per_image
from percep.program import Multipliers, Program
from percep.solvers.conjugate_gradients import conjugate_gradients
from percep.solvers.constraints import Constraints, NewtonMatrix, squared_radii
from percep.solvers.interior_point import MAX_PIXELS, Factor
from percep.solvers.lagrangian import NormalEquations
from percep.summaries import range_of

# Up to so many pixels a dense factor is as fast as conjugate gradients, and exact.
DENSE_PIXELS = 400
_MAX_STEPS = 1000
_REFINEMENTS = 3
# Least distance of a pixel to an end of its range.
_MIN_DISTANCE = 1e-9
_TINY = 1e-30


@dataclass(frozen=True, repr=False)
class AdjointReport:
    """The accuracy and the cost of a backward pass.

    Attributes:
        residual: `(B,)` float64, of the adjoint's linear system, relative, in the norm of the preconditioner's
            inverse; recomputed at the end. NaN for an image without a solution or with a cotangent that is not finite.
        tolerance: the required `residual`.
        steps: conjugate gradient steps taken, 0 where a dense factor was used.
        smoothing: the least slack of a constraint, relative to `R_i^2`.
        solved: `(B,)` bool, whether the forward solution met its tolerance; else the adjoint is as inaccurate as that.
    """

    residual: Tensor
    tolerance: float
    steps: int
    smoothing: float
    solved: Tensor

    def __repr__(self) -> str:
        return (
            f"AdjointReport({int(self.accurate.sum())} of {len(self.solved)} images accurate; residual "
            f"{range_of(self.residual)}, asked for {self.tolerance:.3g}; {self.steps} steps)"
        )

    @property
    def accurate(self) -> Tensor:
        """`(B,)` bool: solved, with a residual of at most twice the tolerance (to allow for rounding).

        A residual of exactly 0 comes from a cotangent of 0, whose gradients are right for any solution.
        """
        return (self.solved & (self.residual <= 2 * self.tolerance)) | (self.residual == 0)


@dataclass(frozen=True)
class AdjointState:
    """The solution of the adjoint system.

    Attributes:
        direction: w, `(B, C, H, W)`.
        multipliers: `D J w`.
        box: `box w`, `(B, C, H, W)`.
    """

    direction: Tensor
    multipliers: Multipliers
    box: Tensor

    def contract(
        self,
        ball: SSIMBall,
        linear: Tensor,
        anchor: Tensor | None,
        rho: Tensor,
        delta: Tensor,
        multipliers: Multipliers,
    ) -> Tensor:
        """phi, a number whose derivatives in the ball's reference and levels, g, a and rho are the gradients."""
        constraints = Constraints(ball, delta)
        distance = delta if anchor is None else delta - anchor
        total = (self.direction * (rho * distance - linear)).sum() + (self.box * ball.reference).sum()
        for product in multipliers.join(constraints.along(self.direction), torch.mul).present():
            total = total + product.sum()
        for product in self.multipliers.join(constraints.values, torch.mul).present():
            total = total + product.sum()
        return -total


def solve_adjoint(
    program: Program, delta: Tensor, multipliers: Multipliers, cotangent: Tensor, smoothing: float, tolerance: float
) -> tuple[AdjointState, Tensor, int]:
    """Solves `H w = cotangent`; also returns the relative residuals, `(B,)` float64, and the number of CG steps.

    Small images are solved in float64, whatever the dtype, and by a dense factor if conjugate gradients do not reach
    the tolerance. Pixels whose row of H is 0 (rho = 0, no window, not at an end of the range) get w = 0.

    Args:
        program: of finite data.
        delta, multipliers: its solution.
        cotangent: `(B, C, H, W)`, finite.
        smoothing: least slack of a constraint, relative to its squared radius.
        tolerance: at which conjugate gradients stop.
    """
    dtype, pixels = cotangent.dtype, cotangent[0].numel()
    if pixels <= MAX_PIXELS:
        program, delta, multipliers = program.double, delta.double(), multipliers.map(Tensor.double)
        cotangent = cotangent.double()
    # Products of small linear terms and cotangents would underflow in float32.
    scaled, unit = program.normalized()
    unit = torch.where(unit > 0, unit, 1.0).reshape(-1, 1, 1, 1)
    scaled_multipliers = multipliers.map(lambda values: values / unit)
    matrix = newton_matrix(scaled, delta, scaled_multipliers, smoothing)
    size = cotangent.flatten(1).abs().amax(1).reshape(-1, 1, 1, 1).clamp_min(_TINY)
    rhs = torch.where(matrix.preconditioner.reached, cotangent / size, 0.0)
    direction, steps = torch.zeros_like(rhs), 0
    if pixels > DENSE_PIXELS:
        free = matrix.preconditioner.reached
        direction, steps = conjugate_gradients(
            lambda values: free * matrix.product(values), matrix.preconditioner, rhs, tolerance, _MAX_STEPS
        )
    residual = _relative_residual(matrix, direction, rhs)
    if pixels <= MAX_PIXELS:
        for image in torch.nonzero(residual > tolerance):
            chosen = scaled_multipliers.map(partial(torch.index_select, dim=0, index=image))
            image_matrix = newton_matrix(scaled.select(image), delta[image], chosen, smoothing)
            direction[image] = _solve_dense(image_matrix, rhs[image])
        residual = _relative_residual(matrix, direction, rhs)
    weighted = matrix.stiffness.join(matrix.constraints.along(direction), torch.mul)
    state = AdjointState(
        (direction * (size / unit)).to(dtype),
        weighted.map(lambda values: (values * size).to(dtype)),
        (matrix.box * direction * size).to(dtype),
    )
    return state, residual, steps


def newton_matrix(program: Program, delta: Tensor, multipliers: Multipliers, smoothing: float) -> NewtonMatrix:
    """H at a solution, with slacks of at least `smoothing * R_i^2`, evaluated in float64.

    The multiplier of a pixel's range is the residual of stationarity towards that end of the range.
    """
    ball = program.ball
    slacks = Constraints(ball.double, delta.double()).values.join(
        squared_radii(ball.double), lambda h, squared: torch.maximum(-h, smoothing * squared)
    )
    stiffness = multipliers.join(slacks, lambda multiplier, slack: (multiplier / slack).to(delta.dtype))
    equations = NormalEquations(program, multipliers)
    excess = equations.rhs - equations.product(delta)
    box = excess.clamp_min(0) / (ball.highest - delta).clamp_min(_MIN_DISTANCE)
    box += (-excess).clamp_min(0) / (delta - ball.lowest).clamp_min(_MIN_DISTANCE)
    return NewtonMatrix(equations, Constraints(ball, delta), stiffness, box)


def _solve_dense(matrix: NewtonMatrix, rhs: Tensor) -> Tensor:
    """`H^-1 v` of one image by a dense factor and refinement; 0 if H is not positive definite in float64."""
    free = matrix.preconditioner.reached
    factor = Factor.of(matrix.dense() + torch.diag((~free).to(rhs.dtype).flatten()))
    if factor is None:
        return torch.zeros_like(rhs)
    direction = free * factor.solve(rhs)
    for _ in range(_REFINEMENTS):
        direction = direction + free * factor.solve(rhs - free * matrix.product(direction))
    return direction


def _relative_residual(matrix: NewtonMatrix, direction: Tensor, rhs: Tensor) -> Tensor:
    """`(B,)` float64, in the norm of the preconditioner's inverse; 0 where the right-hand side is 0."""
    residual = rhs - matrix.preconditioner.reached * matrix.product(direction)
    squared, rhs_squared = (per_image(matrix.preconditioner(v) * v).double().flatten() for v in (residual, rhs))
    return torch.where(rhs_squared > 0, (squared.clamp_min(0) / rhs_squared.clamp_min(_TINY)).sqrt(), 0.0)
