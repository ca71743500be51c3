"""Programs at the edge of what a user may pose, for every solver; and feasibility without exception."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from percep import InputError, Program, SSIMBall, Status, Window, solve
from percep.solvers import ADMM, Dual, ProjectedGradient, Tiles
from tests.support.programs import SHAPES, check, floor_map
from tests.support.references import KINDS, LEVELS, photograph, random_like, reference

pytestmark = pytest.mark.usefixtures("one_thread")

SOLVERS = {
    "dual": Dual(max_iterations=60),
    "admm": ADMM(max_iterations=100),
    "projected_gradient": ProjectedGradient(max_iterations=100),
    "tiles": Tiles(),
}
# Bisections within bisections: Tiles takes half a minute for a floor and a mean.
CASES = [(name, level) for name in SOLVERS for level in LEVELS if (name, level) != ("tiles", "both")]


def rho_of(name: str) -> float:
    return 1.0 if name == "projected_gradient" else 0.0


@pytest.mark.parametrize(("name", "level"), CASES)
def test_constant_images_and_one_hot_constant_and_tiny_linear_terms(name, level):
    constant = torch.stack([torch.full((3, 16, 16), value) for value in (0.0, 0.25, 1.0)]).double()
    x = torch.cat([constant, photograph(3, 16).expand(3, -1, -1, -1)])
    linear = random_like(x, 0)
    linear[3:] = 0
    linear[3, 1, 7, 9] = 1.0
    linear[4] = 1.0  # the luminance alone
    linear[5, :, 0, 0] = -1e-12
    rho = rho_of(name) * torch.tensor([1, 1, 1, 1, 1, 1e-12], dtype=torch.float64)
    program = Program(SSIMBall(x, **LEVELS[level]), linear, rho)
    answer = solve(program, SOLVERS[name], tol=1e-2)
    check(program, answer)
    # Doing nothing has a gap of 1.
    assert name == "tiles" or bool((answer.gap < 0.5).all()), answer.gap


@pytest.mark.parametrize("name", SOLVERS)
def test_the_smallest_and_oblong_images(name):
    for height, width in ((11, 11), (11, 40), (37, 12)):
        x = torch.rand(2, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))
        program = Program(SSIMBall(x, floor=0.95), random_like(x, 0), rho_of(name))
        answer = solve(program, SOLVERS[name], tol=1e-2)
        check(program, answer)
        assert bool((answer.gap < (0.7 if name == "tiles" else 0.05)).all()), answer.gap


@pytest.mark.parametrize("name", SOLVERS)
def test_no_pull_is_solved_by_nothing(name):
    x = photograph(3, 16)
    answer = solve(Program(SSIMBall(x, floor=0.9), torch.zeros_like(x), 1.0), SOLVERS[name], tol=1e-9)
    assert answer.status == (Status.SOLVED,)
    assert float(answer.delta.abs().max()) == float(answer.gap) == 0.0


@pytest.mark.parametrize("name", ["dual", "admm", "projected_gradient"])
def test_a_floor_per_window(name):
    x = photograph(3, 16, channels=1)
    floor = torch.full((1, 1, 16, 16), 0.9, dtype=torch.float64)
    floor[..., 8:] = 0.999
    ball = SSIMBall(x, floor=floor)
    program = Program(ball, random_like(x, 0), rho_of(name))
    answer = solve(program, SOLVERS[name], tol=1e-2)
    check(program, answer)
    below = ball.ssim_map(x + answer.delta) < 0.99
    assert bool(below[..., :7].any()) and not bool(below[..., 8:].any())


def test_tiles_refuse_a_floor_per_window_where_windows_overlap():
    x = photograph(3, 16)
    ball = SSIMBall(x, floor=torch.full((1, 3, 16, 16), 0.9))
    with pytest.raises(InputError, match="same in all"):
        solve(Program(ball, x), "tiles")


def test_auto_takes_admm_where_windows_do_not_overlap_and_dual_elsewhere():
    x, linear = photograph(3, 16), photograph(4, 16) - 0.5
    for window, solver in (
        (Window.uniform(4, stride=4, padding="valid"), ADMM()),
        (Window.uniform(8, stride=4, padding="valid"), Dual()),
        (Window.gaussian(), Dual()),
    ):
        program = Program(SSIMBall(x, mean=0.99, window=window), linear)
        chosen, named = solve(program, "auto", tol=1e-2), solve(program, solver, tol=1e-2)
        torch.testing.assert_close(chosen.delta, named.delta, rtol=0, atol=0)


@settings(max_examples=16, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    solver=st.sampled_from(
        [Dual(max_iterations=3), ADMM(max_iterations=5), ProjectedGradient(max_iterations=5), Dual(max_iterations=12)]
    ),
    window=st.sampled_from(sorted(SHAPES)),
    level=st.sampled_from([*LEVELS, "map"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    size=st.floats(-4, 1),
)
def test_a_hundred_random_images_at_a_time_stay_inside(seed, solver, window, level, dtype, size):
    generator = torch.Generator().manual_seed(seed)
    kinds = [reference(kind, 12, 1, seed % 1000) for kind in KINDS]
    noise = torch.rand(95, 1, 12, 12, dtype=torch.float64, generator=generator)
    contrast = torch.rand(95, 1, 1, 1, dtype=torch.float64, generator=generator)
    x = torch.cat([*kinds, contrast * noise]).to(dtype)
    shape = SHAPES[window][1]
    levels = LEVELS[level] if level != "map" else {"floor": floor_map(x, shape, seed)}
    rho = 1.0 if isinstance(solver, ProjectedGradient) or seed % 2 else 0.0
    program = Program(SSIMBall(x, window=shape, **levels), 10**size * random_like(x, seed), rho)
    check(program, solve(program, solver, tol=1e-9))
