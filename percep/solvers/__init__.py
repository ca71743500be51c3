"""Solvers of the program over an SSIM ball, and `solve` in front of them."""

from percep.errors import InputError
from percep.program import Program, Solution
from percep.solvers.admm import ADMM
from percep.solvers.dual import Dual
from percep.solvers.interior_point import InteriorPoint
from percep.solvers.oracle import Oracle
from percep.solvers.projected_gradient import ProjectedGradient
from percep.solvers.solver import Solver
from percep.solvers.tiles import Tiles

__all__ = ["ADMM", "Dual", "InteriorPoint", "Oracle", "ProjectedGradient", "Solver", "Tiles", "solve"]


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
    """Solves the program of every image in the batch and certifies each solution.

    Args:
        program: what to maximise and over which ball.
        solver: a name in `SOLVERS`, or an instance from `percep.solvers` with its own settings. "auto" is `ADMM`
            where windows do not overlap and `Dual` elsewhere: at a gap of 1e-3 on photographs of 32 to 224 pixels,
            ADMM was 1 to 40 times faster on tiles, and Dual 1 to 6 times on all but the smallest strided windows.
        tol: relative gap, as in `Solution.gap`, at which an image is `solved`.
        warm_start: the solution of a program with the same shapes and kinds of level, such as the previous step of an
            attack. Images that it has no answer for start anew.

    Returns:
        A `Solution`. `delta` is feasible whatever the status: inside the ball's convex set as evaluated in
        float64. An image whose data are not finite has delta 0, NaN figures and the status `not_finite`; the
        others are not affected by it.

    Raises:
        InputError: an unknown solver, a tolerance that is not positive, a program the solver cannot hold, a warm start
            of another shape.
    """
    if solver == "auto":
        solver = Dual() if program.ball.window.overlaps else ADMM()
    elif isinstance(solver, str):
        if solver not in SOLVERS:
            raise InputError(f"unknown solver {solver!r}; choose one of auto, {', '.join(sorted(SOLVERS))}")
        solver = SOLVERS[solver]()
    return solver.solve(program, tol, warm_start)
