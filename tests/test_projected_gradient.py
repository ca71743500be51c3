"""The accelerated dual projected gradient against cvxpy's answer."""

from collections.abc import Iterator

import pytest
import torch
from programs import WINDOWS, agrees, in_single, nears, oracle, task
from references import KINDS, photograph
from test_solvers import LEVELS, random_like

from percep import InputError, Program, SSIMBall, Status, solve
from percep.solvers import ProjectedGradient


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("window", WINDOWS)
def test_projected_gradient_agrees_with_the_conic_solver(window, level):
    if (window, level) == ("gaussian", "floor"):
        nears(ProjectedGradient(max_iterations=800), 1.0)
    else:
        agrees(ProjectedGradient(), window, level, 1.0)


@pytest.mark.parametrize("level", LEVELS)
def test_projected_gradient_reaches_small_gaps(level):
    program, exact = task("strided", level, 1.0), oracle("strided", level, 1.0)
    answer = solve(program, ProjectedGradient(), tol=2e-5)
    assert answer.status == (Status.SOLVED,) * len(KINDS), answer.gap
    torch.testing.assert_close(answer.objective, exact.objective, rtol=3e-5, atol=0)


@pytest.mark.parametrize("level", LEVELS)
def test_projected_gradient_takes_channels_and_single_precision(level):
    agrees(ProjectedGradient(), "strided", level, 1.0, channels=3)
    program = in_single(task("strided", level, 1.0, channels=3))
    answer = solve(program, "projected_gradient", tol=1e-3)
    assert answer.status == (Status.SOLVED,) * len(KINDS), answer.gap
    assert bool(program.ball.double.contains(program.ball.reference.double() + answer.delta.double()).all())


@pytest.mark.parametrize("iterations", [1, 3, 30])
@pytest.mark.parametrize("level", LEVELS)
def test_every_answer_is_feasible_and_bounded_whenever_it_stops(level, iterations):
    program, exact = task("gaussian", level, 1.0), oracle("gaussian", level, 1.0)
    answer = solve(program, ProjectedGradient(max_iterations=iterations), tol=1e-9)
    assert bool((program.ball.scale(answer.delta) == 1).all())
    assert bool((answer.bound >= exact.objective - 1e-9 * exact.objective.abs()).all())
    assert bool((answer.objective <= exact.bound).all())


def test_images_of_a_batch_do_not_meet():
    program = task("strided", "both", 1.0)
    rho = torch.tensor([1.0, 2.0, 0.5, 4.0, 3.0])
    program = Program(program.ball, program.linear, rho, program.anchor)
    together = solve(program, ProjectedGradient(), tol=1e-3)
    for image in range(len(KINDS)):
        alone = solve(program.select(torch.tensor([image])), ProjectedGradient(), tol=1e-3)
        assert int(alone.iterations[0]) == int(together.iterations[image])
        torch.testing.assert_close(alone.delta[0], together.delta[image], rtol=0, atol=1e-9)


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


def test_a_warm_start_saves_iterations():
    program = task("strided", "floor", 1.0)
    cold = solve(program, ProjectedGradient(), tol=1e-3)
    larger = Program(program.ball, 3 * program.linear, 3.0, program.anchor)
    warm = solve(larger, ProjectedGradient(), tol=2e-3, warm_start=cold)
    assert warm.status == (Status.SOLVED,) * len(KINDS)
    assert int(warm.iterations.sum()) < int(cold.iterations.sum())


def test_a_program_without_a_quadratic_is_refused():
    x = photograph(3, 16)
    with pytest.raises(InputError, match="proximal > 0"):
        solve(Program(SSIMBall(x, floor=0.9), x), ProjectedGradient())
