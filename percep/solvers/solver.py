"""What every solver shares: checks, scaling, and closed forms for the images that need no solver."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from percep.errors import InputError
from percep.program import Multipliers, Program, Solution, Status
from percep.solvers.incumbents import relative_gap
from percep.solvers.lagrangian import best_uncovered
from percep.summaries import shape_of
from percep.validation.scalars import require_positive

# Values of a batch that a CPU works on at a time: its tensors then stay in the cache of one core.
_MAX_CACHED_VALUES = 2**17


class Solver(ABC):
    """A frozen object of settings. A new solver is a subclass with an `answer`; users only call `solve`."""

    @final
    @torch.no_grad()
    def solve(self, program: Program, tol: float = 1e-3, warm_start: Solution | None = None) -> Solution:
        """`percep.solve` by this solver, with the same arguments, result and errors.

        Images that are not finite and those whose best perturbation within the pixel range lies in the ball need no
        solver. An image starts cold if its solution in `warm_start` is not finite or has no positive multiplier.
        """
        tol = require_positive("tol", tol)
        if warm_start is not None:
            _check_fit(program, warm_start)
        images = torch.nonzero(program.finite & (program.magnitude > 0)).flatten()
        groups = _groups(program, images, warm_start)
        if len(groups) == 1 and len(images) == program.ball.batch:
            return self._solve(program, tol, groups[0][1])
        solution = _zero(program, tol)
        for group, earlier in groups:
            solution = _merged(solution, group, self._solve(program.select(group), tol, earlier))
        return solution

    def _solve(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        """Solves finite images with a linear term, without a solver where the pixel range alone decides."""
        best = best_uncovered(program)
        positive = program.rho.flatten() > 0
        interior = positive & (program.ball.scale(best) == 1) if bool(positive.any()) else positive
        if not bool(interior.any()):
            return self._answer_in_units(program, tol, warm_start)
        solution, rest = _unconstrained(program, best, tol), torch.nonzero(~interior).flatten()
        if not len(rest):
            return solution
        earlier = None if warm_start is None else warm_start.select(rest)
        return _merged(solution, rest, self._answer_in_units(program.select(rest), tol, earlier))

    def _answer_in_units(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        normalized, unit = program.normalized()
        solution = self.answer(normalized, tol, warm_start)
        self._check_answer(solution, normalized)
        return _in_units(solution, unit)

    @abstractmethod
    def answer(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        """Solves every image of a batch. Called by `solve`, which guarantees the following.

        Args:
            program: of at least one image, with finite data and linear terms `g + rho a` of order 1, not 0.
            tol: positive.
            warm_start: an earlier solution of each image, with multipliers that are finite and not all 0.

        Raises:
            InputError: a program that this solver does not support.
        """

    def _check_answer(self, solution: Solution, program: Program) -> None:
        """Raises InputError for a solution that does not have the shapes of the program."""
        delta, batch = solution.delta, (program.ball.batch,)
        figures = (solution.objective, solution.bound, solution.gap, solution.iterations)
        fits = delta.shape == program.linear.shape and delta.dtype == program.linear.dtype
        if not fits or len(solution.status) != batch[0] or any(tuple(values.shape) != batch for values in figures):
            raise InputError(
                f"{type(self).__name__}.answer must give one perturbation, status and set of figures per image, "
                f"for {shape_of(program.linear)} got {shape_of(delta)} and {len(solution.status)} statuses"
            )


def _zero(program: Program, tol: float) -> Solution:
    """d = 0, optimal without a linear term; of an image that is not finite the objective is NaN."""
    objective = torch.where(program.finite, 0.0, torch.nan).to(torch.float64)
    return _without_solver(program, torch.zeros_like(program.linear), objective, objective.clone(), tol)


def _unconstrained(program: Program, best: Tensor, tol: float) -> Solution:
    """The best perturbation within the pixel range, optimal if it lies in the ball, as for a large rho or an anchor
    inside the ball."""
    parts = [part.objective(best_uncovered(part)) for _, part in program.exact]
    return _without_solver(program, best, program.objective(best), torch.stack(parts).sum(0), tol)


def _without_solver(program: Program, delta: Tensor, objective: Tensor, bound: Tensor, tol: float) -> Solution:
    """A solution with multipliers of 0, after no iteration."""
    gap = relative_gap(objective, bound, program.objective(torch.zeros_like(delta)))
    status = tuple(
        (Status.SOLVED if value <= tol else Status.ITERATION_LIMIT) if finite else Status.NOT_FINITE
        for value, finite in zip(gap.tolist(), program.finite.tolist(), strict=True)
    )
    iterations = torch.zeros(len(status), dtype=torch.int64, device=delta.device)
    return Solution(delta, objective, bound, gap, status, iterations, Multipliers.zeros(program.ball))


def _merged(solution: Solution, images: Tensor, found: Solution) -> Solution:
    """The solution, whose tensors are overwritten, with those of some images replaced."""
    solution.update(images, found)
    status = list(solution.status)
    for image, state in zip(images.tolist(), found.status, strict=True):
        status[image] = state
    return replace(solution, status=tuple(status))


def _check_fit(program: Program, warm_start: Solution) -> None:
    linear, ball = program.linear, program.ball
    found = warm_start.delta
    if found.shape != linear.shape or found.device != linear.device:
        raise InputError(
            f"warm_start must answer a program of the same shape, {tuple(linear.shape)} on {linear.device}, "
            f"got {tuple(found.shape)} on {found.device}"
        )
    for name, wanted in (
        ("luminance", None if ball.floor is None else ball.map_shape),
        ("contrast", None if ball.floor is None else ball.map_shape),
        ("mean", None if ball.mean is None else (ball.batch, 1, 1, 1)),
    ):
        values = getattr(warm_start.multipliers, name)
        if (None if values is None else tuple(values.shape)) != wanted:
            raise InputError(
                "warm_start must answer a program over a ball with the same window and the same kinds of level "
                f"(floor, mean): its multipliers differ in {name}"
            )


def _usable(warm_start: Solution) -> Tensor:
    """`(B,)` bool: which images have a solution to start from."""
    usable = torch.isfinite(warm_start.delta).flatten(1).all(1)
    total = torch.zeros_like(warm_start.objective)
    for values in warm_start.multipliers.present():
        usable = usable & ((values >= 0) & torch.isfinite(values)).flatten(1).all(1)
        total = total + values.flatten(1).sum(1)
    return usable & (total > 0)


def _groups(program: Program, images: Tensor, warm_start: Solution | None) -> list[tuple[Tensor, Solution | None]]:
    """Images to be solved together, with their earlier solutions: on a CPU as many as fit its cache, elsewhere all."""
    parts: list[tuple[Tensor, Solution | None]] = [(images, None)]
    if warm_start is not None:
        known = _usable(warm_start)[images]
        parts = [(images[known], warm_start), (images[~known], None)]
    count = len(images)
    if program.linear.device.type == "cpu" and count:
        count = max(1, _MAX_CACHED_VALUES // program.linear[0].numel())
    return [
        (group, None if earlier is None else earlier.select(group))
        for members, earlier in parts
        if len(members)
        for group in members.split(count)
    ]


def _in_units(solution: Solution, unit: Tensor) -> Solution:
    """A solution of normalized programs, converted to one of the programs themselves."""
    return replace(
        solution,
        objective=solution.objective * unit.double(),
        bound=solution.bound * unit.double(),
        multipliers=solution.multipliers.map(lambda values: values * unit.reshape(-1, 1, 1, 1)),
    )
