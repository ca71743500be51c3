"""What ADMM alone promises, and the window copies it stands on against their definitions."""

import pytest
import torch

from percep import InputError, Program, SSIMBall, Status, Window, solve
from percep.solvers import ADMM
from percep.solvers.patches import Patches, blocks_of, copies_bound, over_copies
from percep.ssim import variance
from tests.support.programs import oracle, task
from tests.support.references import LEVELS, photograph, random_like

pytestmark = pytest.mark.usefixtures("one_thread")


def test_pixels_that_no_window_covers_are_free():
    x = photograph(3, 19, channels=1)
    ball = SSIMBall(x, floor=0.9, window=Window.uniform(6, stride=6, padding="valid"))
    linear = random_like(x, 1)
    answer = solve(Program(ball, linear), ADMM(), tol=1e-3)
    assert answer.status == (Status.SOLVED,)
    best = torch.where(linear > 0, ball.highest, ball.lowest)
    torch.testing.assert_close(answer.delta[..., 18:], best[..., 18:], rtol=0, atol=1e-3)


@pytest.mark.slow("an image of two million pixels")
def test_copies_beyond_memory_are_refused():
    x = torch.zeros(1, 3, 1400, 1400)
    with pytest.raises(InputError, match="GiB"):
        solve(Program(SSIMBall(x, floor=0.9), x + 1), "admm")


@pytest.mark.parametrize(
    "window",
    [Window.gaussian(5), Window.gaussian(4, stride=3), Window.uniform(4, stride=3, padding="valid")],
)
def test_copies_have_the_moments_of_their_windows_and_a_true_adjoint(window):
    x = photograph(3, 17)[..., :14]
    ball = SSIMBall(x, floor=0.9, window=window)
    patches = Patches(ball)
    copies = patches.gather(x)
    mean, spread = patches.moments(copies)
    torch.testing.assert_close(mean, window.mean(x))
    torch.testing.assert_close(spread, variance(window, x))
    coverage = window.adjoint(torch.ones_like(mean), 17, 14)
    torch.testing.assert_close(patches.scatter(copies), coverage * x)
    duals = random_like(copies, 1)
    inner = patches.mean(copies * duals).sum()
    torch.testing.assert_close((patches.scatter(duals) * x).sum(), inner)


@pytest.mark.parametrize("level", LEVELS)
def test_projections_are_the_nearest_points_and_supports_their_limits(level):
    ball = task("strided", level, 0.0).ball
    patches = Patches(ball)
    shape = (*ball.map_shape[:2], 8, 8, *ball.map_shape[2:])
    penalty = random_like(torch.ones(ball.map_shape, dtype=torch.float64), 1).exp()
    for block in blocks_of(ball):
        for size in (1e-3, 1.0, 1e6):
            copies = size * random_like(torch.ones(shape, dtype=torch.float64), 2)
            nearest = block.project(patches.moments(copies), penalty).of(copies)
            again = block.project(patches.moments(nearest), penalty).of(nearest)
            torch.testing.assert_close(again, nearest, rtol=1e-6, atol=1e-9)
            # What was cut off is normal to the set at the nearest point.
            normal = over_copies(penalty) * (copies - nearest)
            reached = patches.mean(normal * nearest).flatten(1).sum(1)
            torch.testing.assert_close(block.support(patches.moments(normal)), reached, rtol=1e-6, atol=1e-9)


@pytest.mark.slow("the oracle is a conic solver, which takes seconds for a program")
@pytest.mark.parametrize("rho", [0.0, 1.0])
@pytest.mark.parametrize("level", LEVELS)
def test_the_bound_holds_for_any_dual_copies(level, rho):
    program, exact = task("gaussian", level, rho), oracle("gaussian", level, rho)
    side = program.ball.window.size
    shape = (*program.ball.map_shape[:2], side, side, *program.ball.map_shape[2:])
    for seed, size in enumerate((0.0, 1e-2, 1.0)):
        duals = [size * random_like(torch.ones(shape, dtype=torch.float64), seed) for _ in blocks_of(program.ball)]
        bound, _ = copies_bound(program, duals)
        assert bool((bound >= exact.objective).all())
