"""The interior point method against the conic solver, and where first-order methods stop."""

import pytest
import torch

from percep import InputError, Program, SSIMBall, Status, Window, solve
from percep.solvers import Oracle
from percep.solvers.interior_point import InteriorPoint
from tests.solvers.test_solvers import LEVELS, random_like
from tests.support.references import KINDS, reference


@pytest.mark.slow("the oracle is a conic solver, which takes seconds for a program")
@pytest.mark.parametrize("rho", [0.0, 1.0])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "window",
    [Window.gaussian(5, 1.0), Window.uniform(4, stride=2, padding="valid"), Window.uniform(5, 5, "valid")],
)
def test_agrees_with_the_conic_solver_to_many_digits(window, level, rho):
    x = torch.cat([reference(kind, 12, 1, seed) for seed, kind in enumerate(KINDS)])
    ball = SSIMBall(x, window=window, **LEVELS[level])
    program = Program(ball, 0.1 * random_like(x, 1), rho, 0.05 * random_like(x, 2))
    exact, answer = solve(program, Oracle(), tol=1e-3), solve(program, InteriorPoint(), tol=1e-7)
    assert answer.status == (Status.SOLVED,) * len(KINDS), answer.gap
    assert bool((answer.objective >= exact.objective - 1e-6 * exact.objective.abs()).all())
    assert bool((answer.bound <= exact.bound + 1e-6 * exact.bound.abs()).all())
    assert bool((ball.scale(answer.delta) == 1).all())


def test_float32_and_several_channels():
    x = reference("photograph", 10, 3).float()
    program = Program(SSIMBall(x, floor=0.9, window=Window.gaussian(5, 1.0)), random_like(x, 1))
    answer = solve(program, InteriorPoint(), tol=1e-5)
    assert answer.delta.dtype == torch.float32 and answer.status == (Status.SOLVED,)


def test_an_image_too_large():
    x = torch.rand(1, 3, 32, 32)
    with pytest.raises(InputError, match="at most 1024 values per image, got 3072"):
        solve(Program(SSIMBall(x, floor=0.9), x), InteriorPoint())
