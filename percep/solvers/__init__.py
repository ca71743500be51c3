"""Solvers of the program over an SSIM ball, and `solve` in front of them."""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from percep.errors import InputError
from percep.program import Multipliers, Program, Solution, Status
from percep.solvers.admm import ADMM
from percep.solvers.dual import Dual
from percep.solvers.interior_point import InteriorPoint
from percep.solvers.oracle import Oracle
from percep.solvers.projected_gradient import ProjectedGradient
from percep.solvers.tiles import Tiles

__all__ = ["ADMM", "Dual", "InteriorPoint", "Oracle", "ProjectedGradient", "Solver", "Tiles", "solve"]


# Values of a batch that a CPU works on at a time: its tensors then stay in the cache of one core.
_CACHED = 2**17


class Solver(Protocol):
    """What `solve` asks of a solver: a frozen object of settings with one verb."""

    def solve(self, program: Program, tol: float, warm_start: Solution | None = None) -> Solution:
        """Answers every image of a program whose data are finite and of order 1."""
        ...


SOLVERS: dict[str, type[Solver]] = {
    "dual": Dual,
    "tiles": Tiles,
    "admm": ADMM,
    "projected_gradient": ProjectedGradient,
    "interior_point": InteriorPoint,
    "oracle": Oracle,
}


def solve(
    program: Program, solver: str | Solver = "auto", tol: float = 1e-3, warm_start: Solution | None = None
) -> Solution:
    """Solves the program of every image in the batch and certifies each answer.

    Args:
        program: what to maximise and over which ball.
        solver: a name in `SOLVERS`, or an instance from `percep.solvers` with its own settings. "auto" is `ADMM`
            where windows do not overlap and `Dual` elsewhere: at a gap of 1e-3 on photographs of 32 to 224 pixels,
            ADMM was 1 to 40 times faster on tiles, and Dual 1 to 6 times on all but the smallest strided windows.
        tol: relative gap, `(bound - objective) / |bound|`, at which an image is `solved`.
        warm_start: the solution of a program with the same shapes, such as the previous step of an attack.

    Returns:
        A `Solution`. `delta` is feasible whatever the status: inside the ball's convex set as evaluated in
        float64. An image whose data are not finite has delta 0, NaN figures and the status `not_finite`; the
        others are not affected by it.

    Raises:
        InputError: an unknown solver, a tolerance that is not positive, a program the solver cannot hold.
    """
    if solver == "auto":
        solver = Dual() if program.ball.window.overlaps else ADMM()
    elif isinstance(solver, str):
        if solver not in SOLVERS:
            raise InputError(f"unknown solver {solver!r}; choose one of auto, {', '.join(sorted(SOLVERS))}")
        solver = SOLVERS[solver]()
    if not tol > 0:
        raise InputError(f"tol must be positive, got {tol}")

    finite = program.finite
    normalized, unit = program.normalized()
    images = torch.nonzero(finite & (unit > 0)).flatten()
    groups = _groups(program, images)
    if len(groups) == 1 and len(images) == program.ball.batch:
        return _in_units(solver.solve(normalized, tol, warm_start), program, unit)
    # Where nothing pulls, d = 0 is optimal and the bound of zero multipliers is exact.
    delta = torch.zeros_like(program.linear)
    objective = torch.where(finite, 0.0, torch.nan).to(torch.float64)
    status = [Status.SOLVED if ok else Status.NOT_FINITE for ok in finite.tolist()]
    iterations = torch.zeros(len(status), dtype=torch.int64, device=delta.device)
    answer = Solution(
        delta, objective, objective.clone(), objective.clone(), tuple(status), iterations, _zero_multipliers(program)
    )
    for group in groups:
        earlier = None if warm_start is None else warm_start.select(group)
        part = solver.solve(normalized.select(group), tol, earlier)
        answer.update(group, _in_units(part, program, unit[group]))
        for image, state in zip(group.tolist(), part.status, strict=True):
            status[image] = state
    return replace(answer, status=tuple(status))


def _groups(program: Program, images: Tensor) -> tuple[Tensor, ...]:
    """Images to be solved together: on a CPU no more than fit its cache, elsewhere all."""
    if not len(images):
        return ()
    if program.linear.device.type != "cpu":
        return (images,)
    return images.split(max(1, _CACHED // program.linear[0].numel()))


def _in_units(answer: Solution, program: Program, unit: Tensor) -> Solution:
    """An answer to normalized programs as one to the programs themselves."""
    prices = answer.multipliers or _zero_multipliers(program)
    return replace(
        answer,
        objective=answer.objective * unit.double(),
        bound=answer.bound * unit.double(),
        multipliers=prices.map(lambda values: values * unit.reshape(-1, 1, 1, 1)),
    )


def _zero_multipliers(program: Program) -> Multipliers:
    ball, zeros = program.ball, program.linear.new_zeros
    windows = None if ball.floor is None else zeros(ball.map_shape)
    return Multipliers(
        windows,
        None if windows is None else windows.clone(),
        None if ball.mean is None else zeros(ball.batch, 1, 1, 1),
    )
