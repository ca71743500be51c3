"""Programs for the splitting solvers, five references to a batch, and the oracle's answers to them."""

from functools import cache

import pytest
import torch
from references import KINDS, reference
from test_solvers import LEVELS, random_like

from percep import Program, Solution, SSIMBall, Status, Window, solve
from percep.solvers import Oracle, Solver

WINDOWS = {
    "gaussian": (16, Window.gaussian()),
    "strided": (20, Window.uniform(8, stride=4, padding="valid")),
    "tiles": (18, Window.uniform(6, stride=6, padding="valid")),
}


@cache
def task(window: str, level: str, rho: float, channels: int = 1) -> Program:
    """In float64, one image per kind of reference, an anchor where rho > 0."""
    size, shape = WINDOWS[window]
    x = torch.cat([reference(kind, size, channels, seed) for seed, kind in enumerate(KINDS)])
    ball, linear = SSIMBall(x, window=shape, **LEVELS[level]), random_like(x, 1)
    return Program(ball, 0.1 * linear, rho, 0.05 * random_like(x, 2)) if rho > 0 else Program(ball, linear)


@cache
def oracle(window: str, level: str, rho: float, channels: int = 1) -> Solution:
    """Clarabel's answers."""
    return solve(task(window, level, rho, channels), Oracle(), tol=1e-5)


def in_single(program: Program) -> Program:
    """The program in float32, of rounded values."""
    ball = program.ball
    single = SSIMBall(ball.reference.float(), ball.floor, ball.mean, ball.window)
    anchor = None if program.anchor is None else program.anchor.float()
    return Program(single, program.linear.float(), program.rho.float().flatten(), anchor)


def agrees(solver: Solver, window: str, level: str, rho: float, channels: int = 1, tol: float = 1e-3) -> None:
    """Asserts a certified gap of `tol`, the oracle's objective, a bound above it and a feasible answer."""
    program, exact = task(window, level, rho, channels), oracle(window, level, rho, channels)
    answer = solve(program, solver, tol=tol)
    assert answer.status == (Status.SOLVED,) * len(KINDS), answer.gap
    for image, kind in enumerate(KINDS):
        best = float(exact.objective[image])
        assert float(answer.objective[image]) == pytest.approx(best, rel=tol), kind
        assert float(answer.bound[image]) >= best - 1e-9 * abs(best), kind
    assert bool((program.ball.scale(answer.delta) == 1).all())
    assert bool(program.ball.contains(program.ball.reference + answer.delta).all())


def nears(solver: Solver, rho: float, window: str = "gaussian") -> None:
    """The same, loosely, for a floor: splitting needs thousands of iterations for 1e-3 where windows crowd."""
    program, exact = task(window, "floor", rho), oracle(window, "floor", rho)
    answer = solve(program, solver, tol=1e-3)
    for image, kind in enumerate(KINDS):
        best = float(exact.objective[image])
        # An optimum near 0 is a difference of larger terms.
        size = max(abs(best), 0.1)
        assert -1e-9 * size <= float(answer.bound[image]) - best < 1e-2 * size, kind
        assert float(answer.objective[image]) == pytest.approx(best, abs=5e-3 * size), kind
    assert bool(program.ball.contains(program.ball.reference + answer.delta).all())
