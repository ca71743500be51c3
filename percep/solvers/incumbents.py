"""The best certified solution so far of each image of a batch."""

import torch
from torch import Tensor

from percep.program import Multipliers, Program, Solution, Status
from percep.solvers.lagrangian import dual_bound


class Incumbents:
    """Collects candidate perturbations and multipliers; keeps the best objective and the least bound.

    Starts from d = 0, which is always feasible, and zero multipliers.
    """

    def __init__(self, program: Program) -> None:
        reference = program.ball.reference
        self._delta = torch.zeros_like(reference)
        self._base = program.objective(self._delta)
        self._objective = self._base.clone()
        self._bound = torch.full_like(self._objective, torch.inf)
        self._iterations = torch.zeros_like(self._objective, dtype=torch.int64)
        self._multipliers = Multipliers.zeros(program.ball)

    def update(
        self,
        images: Tensor,
        program: Program,
        delta: Tensor,
        dual: Tensor,
        multipliers: Multipliers,
        iteration: int,
    ) -> Tensor:
        """Certifies candidates for some images and returns their gaps, `(len(images),)` float64.

        Args:
            images: indices into the batch.
            program: the program of those images.
            delta: feasible perturbations.
            dual: perturbations at which the bound is evaluated together with `multipliers`.
            multipliers: at least 0.
            iteration: recorded as used by these images.
        """
        bound = dual_bound(program, multipliers, dual)
        return self.update_with_bound(images, program, delta, bound, multipliers, iteration)

    def update_with_bound(
        self, images: Tensor, program: Program, delta: Tensor, bound: Tensor, multipliers: Multipliers, iteration: int
    ) -> Tensor:
        """`update` with a rigorous bound `(len(images),)`, float64, that the solver has computed."""
        objective = program.objective(delta)
        better = objective > self._objective[images]
        self._delta[images[better]] = delta[better]
        self._objective[images[better]] = objective[better]
        tighter = bound < self._bound[images]
        self._bound[images[tighter]] = bound[tighter]
        self._iterations[images] = iteration
        self._multipliers.update(images[tighter], multipliers.select(tighter))
        return relative_gap(self._objective[images], self._bound[images], self._base[images])

    def solution(self, tol: float) -> Solution:
        """The solutions so far; an image is solved if its certified gap is at most `tol`."""
        gap = relative_gap(self._objective, self._bound, self._base)
        status = tuple(Status.SOLVED if value <= tol else Status.ITERATION_LIMIT for value in gap.tolist())
        return Solution(self._delta, self._objective, self._bound, gap, status, self._iterations, self._multipliers)


def relative_gap(objective: Tensor, bound: Tensor, base: Tensor) -> Tensor:
    """The share of what a perturbation can gain, `(bound - objective) / (bound - base)`, `(B,)`: see `Solution.gap`.

    0 where the bound is reached; never negative beyond rounding.

    Args:
        objective, bound: `(B,)` float64, and likewise:
        base: the objective of no perturbation.
    """
    difference = bound - objective
    possible = (bound - base).abs().clamp_min(torch.finfo(bound.dtype).tiny)
    return torch.where(difference == 0, 0.0, difference / possible)
