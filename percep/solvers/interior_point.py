"""Small programs to many digits: a primal-dual interior point method with a dense matrix per image."""

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

MOST_PIXELS = 1024
# Share of the tolerance that complementarity may leave: what is left to the certificate and to the digits of d.
_SHARE = 1e-3
# Complementarity to begin with, per constraint and relative to what one pixel can gain.
_START = 1.0
_JITTER = 1e-8
# Errors fall unevenly at first; below this a step that does not reduce them is up against rounding.
_LATE = 1e-6
_PATIENCE = 6


@dataclass(frozen=True)
class InteriorPoint(Solver):
    """Mehrotra's predictor-corrector method (SIAM J. Optim. 1992) on the optimality conditions of the program.

    Ten to twenty Newton steps give what first-order methods cannot: nine digits of d and of the multipliers, which
    is what derivatives and finite differences need. Works in float64 whatever the dtype, image by image.

    Attributes:
        max_iterations: Newton steps before an image is given up as `iteration_limit`.

    Raises:
        InputError: images of more than 1024 values, channels included.
    """

    max_iterations: int = 60

    def answer(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        """See `Solver.answer`. There is nothing to warm-start."""
        pixels = program.linear[0].numel()
        if pixels > MOST_PIXELS:
            raise InputError(f"InteriorPoint holds at most {MOST_PIXELS} values per image, got {pixels}: use Dual")
        incumbents = Incumbents(program)
        dtype = program.linear.dtype
        for image in range(program.ball.batch):
            index = torch.tensor([image], device=program.linear.device)
            part = program.select(index)
            state = _State(part.double)
            iterations = state.run(tol, self.max_iterations)
            multipliers = state.prices.map(lambda values: values.to(dtype))
            delta = scale_into_ball(part.ball, state.delta.to(dtype))
            incumbents.update(index, part, delta, state.delta.to(dtype), multipliers, iterations)
        return incumbents.solution(tol)


@dataclass(frozen=True)
class _Step:
    """A direction: of d, of the slacks and multipliers, and of the multipliers of the pixel range's ends."""

    delta: Tensor
    slacks: Multipliers
    prices: Multipliers
    low: Tensor
    high: Tensor


class _State:
    """A primal-dual point of one image in float64; slacks and multipliers are positive, d inside the pixel range."""

    def __init__(self, program: Program) -> None:
        ball = program.ball
        covered = ball.view.coverage > 0
        self.uncovered, self.best = ~covered, best_uncovered(program)
        # A pixel that no window covers is known, and at rho = 0 only slows the others down.
        self.program = program = replace(program, linear=program.linear * covered)
        self.lowest, self.highest = ball.lowest, ball.highest
        self.anchor = torch.zeros_like(program.linear) if program.anchor is None else program.anchor
        # Strictly inside: towards grey, half as far as the constraints allow.
        grey = 0.5 - ball.reference
        self.delta = 0.5 * ball.scale(grey).reshape(-1, 1, 1, 1).to(grey.dtype) * grey
        self.constraints = Constraints(ball, self.delta)
        self.slacks = self.constraints.values.map(torch.neg)
        below, above = self.delta - self.lowest, self.highest - self.delta
        slope = (program.linear - program.rho * (self.delta - self.anchor)).abs().mean()
        start = (_START * slope * torch.minimum(below, above).mean()).clamp_min(1e-12)
        self.prices = self.slacks.map(lambda slack: start / slack)
        self.low, self.high = start / below, start / above

    def run(self, tol: float, max_steps: int) -> int:
        """Newton steps until the optimality conditions hold far below `tol`, or as well as rounding lets them.

        Ends at the best point: beyond the last digit steps get worse again.
        """
        best, kept, behind, iteration = torch.inf, (self.delta, self.prices), 0, 0
        while iteration < max_steps:
            error = self._error()
            if error < best:
                best, kept, behind = error, (self.delta, self.prices), 0
            elif best < _LATE:
                behind += 1
            if best <= _SHARE * tol or behind == _PATIENCE or not self._advance():
                break
            iteration += 1
        delta, self.prices = kept
        self.delta = torch.where(self.uncovered, self.best, delta)
        return iteration

    def _error(self) -> float:
        """How far the optimality conditions are from holding, relative to a pull of 1, radii and the objective."""
        outside = self._outside().join(squared_radii(self.program.ball), torch.div)
        size = float(self.program.objective(self.delta).abs().clamp_min(1e-12))
        violations = [float(values.abs().max()) for values in (self._stationarity(), *outside.present())]
        return max(0.1 * max(violations), self._complementarity() / size)

    def _advance(self) -> bool:
        """One predictor and corrector step; False where rounding has the last word."""
        below, above = self.delta - self.lowest, self.highest - self.delta
        stiffness = self.prices.join(self.slacks, torch.div)
        box = self.low / below + self.high / above
        equations = NormalEquations(self.program, self.prices)
        matrix = NewtonMatrix(equations, self.constraints, stiffness, box)
        factor = Factor.of(matrix.dense())
        if factor is None:
            return False
        outside, stationarity = self._outside(), self._stationarity()

        def step(targets: Multipliers, low: Tensor, high: Tensor) -> _Step:
            """Newton's step for `l s = targets`, and the same at the ends of the range."""
            wanted = targets.join(self.slacks, torch.div).join(self.prices, torch.sub)
            pushed = wanted.join(stiffness.join(outside, torch.mul), torch.add)
            rhs = low / below - self.low - high / above + self.high - stationarity - self.constraints.vjp(pushed)
            delta = factor.solve(rhs)
            slacks = outside.join(self.constraints.along(delta), lambda h, j: -h - j)
            prices = wanted.join(stiffness.join(slacks, torch.mul), torch.sub)
            return _Step(
                delta,
                slacks,
                prices,
                (low - self.low * delta) / below - self.low,
                (high + self.high * delta) / above - self.high,
            )

        zero = torch.zeros_like(self.delta)
        predictor = step(self.slacks.map(torch.zeros_like), zero, zero)
        present = self._complementarity()
        ahead = self._complementarity(predictor, self._longest(predictor))
        target = (ahead / present) ** 3 * present / self._count
        corrector = step(
            predictor.slacks.join(predictor.prices, lambda slack, price: target - slack * price),
            target - predictor.low * predictor.delta,
            target + predictor.high * predictor.delta,
        )
        length = min(1.0, 0.995 * self._longest(corrector))
        if not bool(torch.isfinite(corrector.delta).all()) or length < 1e-10:
            return False
        self.delta = self.delta + length * corrector.delta
        self.slacks = self.slacks.join(corrector.slacks, lambda slack, change: slack + length * change)
        self.prices = self.prices.join(corrector.prices, lambda price, change: price + length * change)
        self.low, self.high = self.low + length * corrector.low, self.high + length * corrector.high
        self.constraints = Constraints(self.program.ball, self.delta)
        return True

    def _stationarity(self) -> Tensor:
        program = self.program
        pull = program.rho * (self.delta - self.anchor) - program.linear
        return pull + self.constraints.vjp(self.prices) - self.low + self.high

    def _outside(self) -> Multipliers:
        """`h + s`, 0 once the slacks are those of d."""
        return self.constraints.values.join(self.slacks, torch.add)

    @property
    def _count(self) -> int:
        return 2 * self.delta.numel() + sum(values.numel() for values in self.prices.present())

    def _complementarity(self, step: _Step | None = None, length: float = 0.0) -> float:
        """`sum l s` over the constraints and the ends of the range, here or along a step."""
        values = self._point()
        if step is not None:
            values = [value + length * change for value, change in zip(values, _changes(step), strict=True)]
        half = len(values) // 2
        return sum(float((a * b).sum()) for a, b in zip(values[:half], values[half:], strict=True))

    def _longest(self, step: _Step) -> float:
        """The longest step, at most 1, that keeps everything positive."""
        longest = 1.0
        for value, change in zip(self._point(), _changes(step), strict=True):
            longest = min(longest, float(torch.where(change < 0, -value / change, torch.inf).min()))
        return longest

    def _point(self) -> list[Tensor]:
        below, above = self.delta - self.lowest, self.highest - self.delta
        return [*self.slacks.present(), below, above, *self.prices.present(), self.low, self.high]


def _changes(step: _Step) -> list[Tensor]:
    return [*step.slacks.present(), step.delta, -step.delta, *step.prices.present(), step.low, step.high]


@dataclass(frozen=True)
class Factor:
    """A Cholesky factor of a matrix scaled to a unit diagonal."""

    scale: Tensor
    factor: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> "Factor | None":
        """None if the matrix is not positive definite, whatever little is added to its diagonal."""
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
