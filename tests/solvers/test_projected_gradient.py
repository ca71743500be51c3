"""What the accelerated dual projected gradient alone promises."""

import pytest
import torch

from percep import InputError, Program, SSIMBall, solve
from percep.solvers import ProjectedGradient
from tests.support.references import photograph, random_like

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow("many random projections")
def test_projection_keeps_what_is_inside_and_is_not_expansive():
    x = photograph(3, 24)
    ball = SSIMBall(x, floor=0.9)
    first, second = (0.02 * random_like(x, seed) for seed in (1, 2))
    inside = 0.9 * float(ball.scale(first.clamp(ball.lowest, ball.highest))) * first.clamp(ball.lowest, ball.highest)
    zero = torch.zeros_like(x)
    kept = solve(Program(ball, zero, 1.0, inside), ProjectedGradient(max_iterations=20), tol=1e-9)
    torch.testing.assert_close(kept.delta, inside, rtol=0, atol=1e-6)
    solver = ProjectedGradient(max_iterations=200)
    one, two = (solve(Program(ball, zero, 1.0, anchor), solver, tol=1e-3).delta for anchor in (first, second))
    assert float((one - two).norm()) <= 1.01 * float((first - second).norm())


def test_a_program_without_a_quadratic_is_refused():
    x = photograph(3, 16)
    with pytest.raises(InputError, match="proximal > 0"):
        solve(Program(SSIMBall(x, floor=0.9), x), ProjectedGradient())
