"""Solvers of the program over an SSIM ball, and `solve` in front of them."""

from typing import Protocol

import torch

from percep.errors import InputError
from percep.program import Multipliers, Program, Solution, Status
from percep.solvers.dual import Dual
from percep.solvers.oracle import Oracle
from percep.solvers.tiles import Tiles

__all__ = ["Dual", "Oracle", "Solver", "Tiles", "solve"]


class Solver(Protocol):
    """What `solve` asks of a solver: a frozen object of settings with one verb."""

    def solve(self, program: Program, tol: float, warm_start: Solution | None = None) -> Solution:
        """Answers every image of a program whose data are finite and of order 1."""
        ...


SOLVERS: dict[str, type[Solver]] = {"dual": Dual, "tiles": Tiles, "oracle": Oracle}


def solve(
    program: Program, solver: str | Solver = "dual", tol: float = 1e-3, warm_start: Solution | None = None
) -> Solution:
    """Solves the program of every image in the batch and certifies each answer.

    Args:
        program: what to maximise and over which ball.
        solver: "dual", "tiles" or "oracle", or an instance from `percep.solvers` with its own settings.
        tol: relative gap, `(bound - objective) / |bound|`, at which an image is `solved`.
        warm_start: the solution of a program with the same shapes, such as the previous step of an attack.

    Returns:
        A `Solution`. `delta` is feasible whatever the status: inside the ball's convex set as evaluated in
        float64. An image whose data are not finite has delta 0, NaN figures and the status `not_finite`; the
        others are not affected by it.

    Raises:
        InputError: an unknown solver, a tolerance that is not positive, a program the solver cannot hold.
    """
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise InputError(f"unknown solver {solver!r}; choose one of {', '.join(sorted(SOLVERS))}")
        solver = SOLVERS[solver]()
    if not tol > 0:
        raise InputError(f"tol must be positive, got {tol}")

    size = program.linear.flatten(1).abs().amax(1)
    if program.anchor is not None:
        size = size + program.rho.flatten() * program.anchor.flatten(1).abs().amax(1)
    finite = program.finite
    images = torch.nonzero(finite & (size > 0)).flatten()
    # Where nothing pulls, d = 0 is optimal and the bound of zero multipliers is exact.
    delta = torch.zeros_like(program.linear)
    objective = torch.where(finite, 0.0, torch.nan).to(torch.float64)
    bound, gap = objective.clone(), objective.clone()
    status = [Status.SOLVED if ok else Status.NOT_FINITE for ok in finite.tolist()]
    iterations = torch.zeros(len(status), dtype=torch.int64, device=delta.device)
    multipliers = _zero_multipliers(program)
    if len(images):
        factor = size[images].reshape(-1, 1, 1, 1)
        part = program.select(images)
        scaled = Program(part.ball, part.linear / factor, part.rho.flatten() / factor.flatten(), part.anchor)
        if warm_start is not None:
            warm_start = warm_start.select(images)
        answer = solver.solve(scaled, tol, warm_start)
        factor64 = factor.double().flatten()
        delta[images] = answer.delta
        objective[images] = answer.objective * factor64
        bound[images] = answer.bound * factor64
        gap[images] = answer.gap
        iterations[images] = answer.iterations
        if answer.multipliers is not None:
            multipliers.update(images, answer.multipliers.map(lambda values: values * factor))
        for image, state in zip(images.tolist(), answer.status, strict=True):
            status[image] = state
    return Solution(delta, objective, bound, gap, tuple(status), iterations, multipliers)


def _zero_multipliers(program: Program) -> Multipliers:
    ball, zeros = program.ball, program.linear.new_zeros
    windows = None if ball.floor is None else zeros(ball.map_shape)
    return Multipliers(
        windows,
        None if windows is None else windows.clone(),
        None if ball.mean is None else zeros(ball.batch, 1, 1, 1),
    )
