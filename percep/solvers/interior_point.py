"""A primal-dual interior point method with a dense matrix per image: small programs, solved to many digits."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from percep.errors import InputError
from percep.program import Multipliers, Program, Solution
from percep.solvers.constraints import Constraints, NewtonMatrix, squared_radii
from percep.solvers.feasibility import scale_into_ball
from percep.solvers.incumbents import Incumbents
from percep.solvers.lagrangian import NormalEquations, best_uncovered
from percep.solvers.solver import Solver

MAX_PIXELS = 1024
# Complementarity at which to stop, as a share of the tolerance: the certificate and the rounding of d need the rest.
_COMPLEMENTARITY_SHARE = 1e-3
# Initial complementarity per constraint, relative to what one pixel can gain.
_INITIAL_COMPLEMENTARITY = 1.0
_JITTER = 1e-8
# Errors need not decrease at every step. Once one is below this, a step that does not decrease it is at the level of
# float64 rounding.
_ROUNDING_ERROR = 1e-6
_MAX_STALLS = 6


@dataclass(frozen=True)
class InteriorPoint(Solver):
    """Mehrotra's predictor-corrector method (SIAM J. Optim. 1992) on the optimality conditions of the program.

    Ten to twenty Newton steps give what first-order methods cannot: nine digits of d and of the multipliers, which
    is what derivatives and finite differences need. Works in float64 whatever the dtype, image by image.

    Attributes:
        max_iterations: Newton steps after which an unsolved image has the status `iteration_limit`.

    Raises:
        InputError: images of more than 1024 values, channels included.
    """

    max_iterations: int = 60

    def answer(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        """See `Solver.answer`. A warm start is ignored."""
        pixels = program.linear[0].numel()
        if pixels > MAX_PIXELS:
            raise InputError(f"InteriorPoint holds at most {MAX_PIXELS} values per image, got {pixels}: use Dual")
        incumbents = Incumbents(program)
        dtype = program.linear.dtype
        for image in range(program.ball.batch):
            index = torch.tensor([image], device=program.linear.device)
            part = program.select(index)
            state = _State(part.double)
            iterations = state.run(tol, self.max_iterations)
            multipliers = state.multipliers.map(lambda values: values.to(dtype))
            delta = scale_into_ball(part.ball, state.delta.to(dtype))
            incumbents.update(index, part, delta, state.delta.to(dtype), multipliers, iterations)
        return incumbents.solution(tol)


@dataclass(frozen=True)
class _Step:
    """A Newton direction.

    Attributes:
        delta: of d.
        slacks, multipliers: of the constraints.
        lower, upper: of the multipliers of the pixel range, `d >= -x` and `d <= 1 - x`.
    """

    delta: Tensor
    slacks: Multipliers
    multipliers: Multipliers
    lower: Tensor
    upper: Tensor

    def changes(self) -> list[Tensor]:
        """In the order of `_State.positives`."""
        return [*self.slacks.present(), self.delta, -self.delta, *self.multipliers.present(), self.lower, self.upper]


class _State:
    """A primal-dual point of one image in float64; slacks and multipliers are positive, d inside the pixel range.

    Attributes:
        delta: d, `(1, C, H, W)`.
        slacks, multipliers: s and l of the constraints, `h(d) + s = 0` and `l s = 0` at the optimum.
        lower, upper: multipliers of the pixel range, `d >= -x` and `d <= 1 - x`; their slacks are those of d.
    """

    def __init__(self, program: Program) -> None:
        ball = program.ball
        covered = ball.view.covered
        self.uncovered, self.best_uncovered = ~covered, best_uncovered(program)
        # The best value of a pixel that no window covers is known; at rho = 0 such pixels would slow down convergence.
        self.program = program = replace(program, linear=program.linear * covered)
        self.anchor = torch.zeros_like(program.linear) if program.anchor is None else program.anchor
        # Strictly inside: halfway to the boundary, towards grey.
        grey = 0.5 - ball.reference
        self.delta = 0.5 * ball.scale(grey).reshape(-1, 1, 1, 1).to(grey.dtype) * grey
        self.constraints = Constraints(ball, self.delta)
        self.slacks = self.constraints.values.map(torch.neg)
        lower_slack, upper_slack = self.range_slacks()
        gradient = (program.linear - program.rho * (self.delta - self.anchor)).abs().mean()
        product = _INITIAL_COMPLEMENTARITY * gradient * torch.minimum(lower_slack, upper_slack).mean()
        product = product.clamp_min(1e-12)
        self.multipliers = self.slacks.map(lambda slack: product / slack)
        self.lower, self.upper = product / lower_slack, product / upper_slack

    def run(self, tol: float, max_steps: int) -> int:
        """Takes Newton steps until the error is far below `tol` or at float64 rounding; returns their number.

        Ends at the point of the least error.
        """
        least, best, stalls, iteration = torch.inf, (self.delta, self.multipliers), 0, 0
        while iteration < max_steps:
            error = self._error()
            if error < least:
                least, best, stalls = error, (self.delta, self.multipliers), 0
            elif least < _ROUNDING_ERROR:
                stalls += 1
            if least <= _COMPLEMENTARITY_SHARE * tol or stalls == _MAX_STALLS or not self._advance():
                break
            iteration += 1
        delta, self.multipliers = best
        self.delta = torch.where(self.uncovered, self.best_uncovered, delta)
        return iteration

    def _error(self) -> float:
        """The largest violation of an optimality condition, relative to a linear term of 1, radii or objective."""
        infeasibility = self.infeasibility().join(squared_radii(self.program.ball), torch.div)
        objective = float(self.program.objective(self.delta).abs().clamp_min(1e-12))
        violations = [float(values.abs().max()) for values in (self.stationarity(), *infeasibility.present())]
        return max(0.1 * max(violations), self._complementarity() / objective)

    def _advance(self) -> bool:
        """One predictor and corrector step.

        False, and the point unchanged, if float64 allows no further step: the matrix is not positive definite, the
        direction is not finite, or less than 1e-10 of it can be taken.
        """
        newton = _Newton.at(self)
        if newton is None:
            return False
        zero = torch.zeros_like(self.delta)
        predictor = newton.step(self.slacks.map(torch.zeros_like), zero, zero)
        current = self._complementarity()
        predicted = self._complementarity(predictor, self._max_step(predictor))
        target = (predicted / current) ** 3 * current / self._num_constraints
        corrector = newton.step(
            predictor.slacks.join(predictor.multipliers, lambda slack, multiplier: target - slack * multiplier),
            target - predictor.lower * predictor.delta,
            target + predictor.upper * predictor.delta,
        )
        length = min(1.0, 0.995 * self._max_step(corrector))
        if not bool(torch.isfinite(corrector.delta).all()) or length < 1e-10:
            return False
        self.delta = self.delta + length * corrector.delta
        self.slacks = self.slacks.join(corrector.slacks, lambda slack, change: slack + length * change)
        self.multipliers = self.multipliers.join(corrector.multipliers, lambda value, change: value + length * change)
        self.lower, self.upper = self.lower + length * corrector.lower, self.upper + length * corrector.upper
        self.constraints = Constraints(self.program.ball, self.delta)
        return True

    def stationarity(self) -> Tensor:
        """The Lagrangian's gradient in d, 0 at the optimum."""
        program = self.program
        gradient = program.rho * (self.delta - self.anchor) - program.linear
        return gradient + self.constraints.vjp(self.multipliers) - self.lower + self.upper

    def infeasibility(self) -> Multipliers:
        """`h + s`, which is 0 once the slacks are those of d."""
        return self.constraints.values.join(self.slacks, torch.add)

    def range_slacks(self) -> tuple[Tensor, Tensor]:
        """The distances of d to the lower and the upper end of the pixel range."""
        ball = self.program.ball
        return self.delta - ball.lowest, ball.highest - self.delta

    @property
    def _num_constraints(self) -> int:
        return 2 * self.delta.numel() + sum(values.numel() for values in self.multipliers.present())

    def _complementarity(self, step: _Step | None = None, length: float = 0.0) -> float:
        """`sum l s` over the constraints and the ends of the range, here or along a step."""
        values = self.positives()
        if step is not None:
            values = [value + length * change for value, change in zip(values, step.changes(), strict=True)]
        half = len(values) // 2
        return sum(float((a * b).sum()) for a, b in zip(values[:half], values[half:], strict=True))

    def _max_step(self, step: _Step) -> float:
        """The largest length, at most 1, of a step that keeps slacks and multipliers at least 0."""
        length = 1.0
        for value, change in zip(self.positives(), step.changes(), strict=True):
            length = min(length, float(torch.where(change < 0, -value / change, torch.inf).min()))
        return length

    def positives(self) -> list[Tensor]:
        """The values that must stay positive: all slacks, then their multipliers in the same order."""
        return [*self.slacks.present(), *self.range_slacks(), *self.multipliers.present(), self.lower, self.upper]


@dataclass(frozen=True)
class Factor:
    """A Cholesky factor of a matrix scaled to a unit diagonal."""

    scale: Tensor
    factor: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> "Factor | None":
        """Factors a matrix; None if it is not positive definite, even with `_JITTER` added to its unit diagonal."""
        scale = matrix.diagonal().clamp_min(1e-30).rsqrt()
        scaled = matrix * scale * scale[:, None]
        jitter = 0.0
        while jitter <= _JITTER:
            factor, failed = torch.linalg.cholesky_ex(scaled)
            if not bool(failed):
                return cls(scale, factor)
            scaled.diagonal().add_(max(1e-15, 9 * jitter))
            jitter = max(1e-15, 10 * jitter)
        return None

    def solve(self, rhs: Tensor) -> Tensor:
        values = (self.scale * rhs.flatten())[:, None]
        return (self.scale * torch.cholesky_solve(values, self.factor).flatten()).reshape(rhs.shape)


@dataclass(frozen=True)
class _Newton:
    """The optimality conditions linearised at a point.

    Attributes:
        stiffness: multiplier over slack, of the constraints.
        factor: of the matrix of d.
        infeasibility, stationarity: residuals of the conditions at the point.
    """

    point: _State
    stiffness: Multipliers
    factor: Factor
    infeasibility: Multipliers
    stationarity: Tensor

    @classmethod
    def at(cls, point: _State) -> "_Newton | None":
        """Linearises and factors; None if the matrix is not positive definite."""
        lower_slack, upper_slack = point.range_slacks()
        stiffness = point.multipliers.join(point.slacks, torch.div)
        box = point.lower / lower_slack + point.upper / upper_slack
        equations = NormalEquations(point.program, point.multipliers)
        factor = Factor.of(NewtonMatrix(equations, point.constraints, stiffness, box).dense())
        return None if factor is None else cls(point, stiffness, factor, point.infeasibility(), point.stationarity())

    def step(self, products: Multipliers, lower: Tensor, upper: Tensor) -> _Step:
        """The step after which slack times multiplier is, to first order, as given.

        Args:
            products: of the constraints.
            lower, upper: of the ends of the pixel range, `(1, C, H, W)`.
        """
        point, constraints = self.point, self.point.constraints
        lower_slack, upper_slack = point.range_slacks()
        # The multipliers' change is `fixed - stiffness * (the slacks' change)`, the slacks' is `-infeasibility - J dd`.
        fixed = products.join(point.slacks, torch.div).join(point.multipliers, torch.sub)
        without_delta = fixed.join(self.stiffness.join(self.infeasibility, torch.mul), torch.add)
        rhs = lower / lower_slack - point.lower - upper / upper_slack + point.upper
        delta = self.factor.solve(rhs - self.stationarity - constraints.vjp(without_delta))
        slacks = self.infeasibility.join(constraints.along(delta), lambda residual, change: -residual - change)
        return _Step(
            delta,
            slacks,
            fixed.join(self.stiffness.join(slacks, torch.mul), torch.sub),
            (lower - point.lower * delta) / lower_slack - point.lower,
            (upper + point.upper * delta) / upper_slack - point.upper,
        )
