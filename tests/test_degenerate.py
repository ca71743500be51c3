"""Programs at the edge of what a user may pose, for every solver; and feasibility without exception."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import KINDS, photograph, reference
from torch import Tensor

from percep import InputError, Program, SSIMBall, Status, Window, certify, solve
from percep.solvers import ADMM, Dual, ProjectedGradient, Solver, Tiles

SOLVERS = {
    "dual": Dual(max_iterations=60),
    "admm": ADMM(max_iterations=100),
    "projected_gradient": ProjectedGradient(max_iterations=100),
    "tiles": Tiles(),
}
LEVELS = {"floor": {"floor": 0.95}, "mean": {"mean": 0.99}, "both": {"floor": 0.9, "mean": 0.99}}


def check(solver: Solver, program: Program) -> Tensor:
    """Solves, asserts that the answer is inside and below its bound, and returns the gaps."""
    answer = solve(program, solver, tol=1e-2)
    exact = program.ball.double
    assert bool(torch.isfinite(answer.delta).all())
    assert bool((exact.scale(answer.delta) == 1).all())
    assert bool(exact.contains(exact.reference + answer.delta.double()).all())
    assert bool((answer.objective <= answer.bound + 1e-12).all())
    assert bool((answer.objective >= program.objective(torch.zeros_like(answer.delta)) - 1e-12).all())
    return answer.gap


def rho_of(name: str) -> float:
    return 1.0 if name == "projected_gradient" else 0.0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SOLVERS)
def test_constant_images(name, level):
    x = torch.stack([torch.full((3, 16, 16), value) for value in (0.0, 0.25, 1.0)]).double()
    linear = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check(SOLVERS[name], Program(SSIMBall(x, **LEVELS[level]), linear, rho_of(name)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SOLVERS)
def test_one_hot_and_constant_linear_terms(name, level):
    x = photograph(3, 16).expand(3, -1, -1, -1).contiguous()
    linear = torch.zeros_like(x)
    linear[0, 1, 7, 9] = 1.0
    linear[1] = 1.0  # the luminance alone
    linear[2, :, 0, 0] = -1e-12  # in a corner, and tiny
    check(SOLVERS[name], Program(SSIMBall(x, **LEVELS[level]), linear, 1e-9 * rho_of(name)))


@pytest.mark.parametrize("name", SOLVERS)
def test_the_smallest_and_oblong_images(name):
    generator = torch.Generator().manual_seed(0)
    for height, width in ((11, 11), (11, 40), (37, 12)):
        x = torch.rand(2, 1, height, width, dtype=torch.float64, generator=generator)
        linear = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        check(SOLVERS[name], Program(SSIMBall(x, floor=0.95), linear, rho_of(name)))


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
    linear = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ball = SSIMBall(x, floor=floor)
    check(SOLVERS[name], Program(ball, linear, rho_of(name)))
    answer = solve(Program(ball, linear, rho_of(name)), SOLVERS[name], tol=1e-2)
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


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    name=st.sampled_from(["dual", "admm"]),
    level=st.sampled_from(sorted(LEVELS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    size=st.floats(-4, 1),
)
def test_a_hundred_random_images_at_a_time_stay_inside(seed, name, level, dtype, size):
    generator = torch.Generator().manual_seed(seed)
    kinds = [reference(kind, 12, 1, seed % 1000) for kind in KINDS]
    noise = torch.rand(95, 1, 12, 12, dtype=torch.float64, generator=generator)
    contrast = torch.rand(95, 1, 1, 1, dtype=torch.float64, generator=generator)
    x = torch.cat([*kinds, contrast * noise]).to(dtype)
    linear = 10**size * torch.randn(x.shape, dtype=torch.float64, generator=generator).to(dtype)
    ball = SSIMBall(x, **LEVELS[level])
    solver = Dual(max_iterations=3) if name == "dual" else ADMM(max_iterations=5)
    answer = solve(Program(ball, linear), solver, tol=1e-9)
    assert bool((ball.scale(answer.delta) == 1).all())
    assert bool((answer.objective <= answer.bound * (1 + 1e-12)).all())
    report = certify(x.double(), x.double() + answer.delta.double(), **LEVELS[level])
    assert bool(report.within.all())
