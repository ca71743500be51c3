"""Every iterative solver held to the conic solver: windows, levels, rho, precision, on five kinds of reference."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from percep import Program, Status, solve
from percep.solvers import SOLVERS
from percep.solvers.iterative import IterativeSolver
from tests.support.programs import ROUNDING, WINDOWS, check, in_single, oracle, task
from tests.support.references import KINDS, LEVELS

pytestmark = pytest.mark.usefixtures("one_thread")

ITERATIVE = {name: solver() for name, solver in SOLVERS.items() if issubclass(solver, IterativeSolver)}
# Of images so small a certificate takes as long as several iterations; Dual's certificates also set its step sizes.
RARELY_CERTIFIED = {
    name: solver if name == "dual" else replace(solver, check_every=60) for name, solver in ITERATIVE.items()
}
ASKED = {torch.float64: 1e-4, torch.float32: 1e-3}
# A small window, a stride, channels, an oblong image and reflection, with a floor of its own for every window.
MAPS = [("oblong", "map"), ("strided", "map")]
# The conic solver takes seconds for the default window.
DEFAULT = [("default", "both")]
CASES = [
    (name, window, level, rho)
    for (window, level), rho, name in product([*product(WINDOWS, LEVELS), *MAPS, *DEFAULT], (0.0, 1.0), ITERATIVE)
    if rho > 0 or name != "projected_gradient"
]
# The gap that 300 iterations reach where they do not reach the one asked for: crowded floors, and for Dual the black
# and saturated images under a window of 4 taps.
SHORT = {
    ("dual", "gaussian", "floor", 0.0): 1e-3,
    ("dual", "gaussian", "floor", 1.0): 5e-4,
    ("dual", "oblong", "map", 0.0): 4e-2,
    ("admm", "gaussian", "floor", 0.0): 2e-2,
    ("admm", "gaussian", "floor", 1.0): 2e-2,
    ("projected_gradient", "gaussian", "floor", 1.0): 6e-2,
}


@pytest.mark.slow("every case is solved by a conic solver too, or to its limit of iterations")
@pytest.mark.parametrize("dtype", ASKED)
@pytest.mark.parametrize(("name", "window", "level", "rho"), CASES)
def test_agrees_with_the_conic_solver(name, window, level, rho, dtype):
    program, exact, solver = task(window, level, rho), oracle(window, level, rho), RARELY_CERTIFIED[name]
    if dtype == torch.float32:
        program = in_single(program)
    asked = tol = ASKED[dtype]
    if (name, window, level, rho) in SHORT:
        solver, tol = replace(solver, max_iterations=300), max(asked, SHORT[name, window, level, rho])
    answer = solve(program, solver, tol=asked)
    check(program, answer)
    if tol == asked:
        assert answer.status == (Status.SOLVED,) * len(KINDS), answer.gap
    assert bool((answer.gap <= tol).all()), answer.gap
    # Both ends of both certificates are rigorous.
    slack = ROUNDING * exact.objective.abs()
    assert bool((answer.bound >= exact.objective - slack).all())
    assert bool((answer.objective <= exact.bound + slack).all())
    gain = exact.bound - program.objective(torch.zeros_like(answer.delta))
    assert bool(((answer.objective - exact.objective).abs() <= tol * gain).all())


@pytest.mark.parametrize("iterations", [1, 30])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ITERATIVE)
def test_an_answer_is_feasible_and_bounded_whenever_it_stops(name, level, iterations):
    rho = 1.0 if name == "projected_gradient" else 0.0
    program, exact = task("gaussian", level, rho), oracle("gaussian", level, rho)
    answer = solve(program, replace(ITERATIVE[name], max_iterations=iterations), tol=1e-9)
    check(program, answer)
    slack = ROUNDING * exact.objective.abs()
    assert bool((answer.bound >= exact.objective - slack).all())
    assert bool((answer.objective <= exact.bound + slack).all())


@pytest.mark.slow("solves every image of a batch by itself too")
@pytest.mark.parametrize("level", ["map", "both"])
@pytest.mark.parametrize("name", ITERATIVE)
def test_images_of_a_batch_do_not_meet(name, level):
    program = task("strided", level, 1.0)
    rho = torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0], dtype=torch.float64)
    program = Program(program.ball, program.linear, rho, program.anchor)
    together = solve(program, ITERATIVE[name], tol=1e-3)
    for image in range(len(KINDS)):
        alone = solve(program.select(torch.tensor([image])), ITERATIVE[name], tol=1e-3)
        assert int(alone.iterations[0]) == int(together.iterations[image])
        torch.testing.assert_close(alone.delta[0], together.delta[image], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["admm", "projected_gradient"])
def test_splitting_reaches_small_gaps(name):
    program, exact = task("strided", "both", 1.0), oracle("strided", "both", 1.0)
    answer = solve(program, ITERATIVE[name], tol=2e-5)
    assert answer.status == (Status.SOLVED,) * len(KINDS), answer.gap
    torch.testing.assert_close(answer.objective, exact.objective, rtol=3e-5, atol=0)


@pytest.mark.slow("counts the iterations of whole solves")
@pytest.mark.parametrize("name", ITERATIVE)
def test_a_warm_start_saves_iterations_whatever_its_scale(name):
    program = task("strided", "floor", 1.0)
    solver = replace(ITERATIVE[name], check_every=5)
    cold = solve(program, solver, tol=1e-3)
    larger = Program(program.ball, 3 * program.linear, 3.0, program.anchor)
    warm = solve(larger, solver, tol=2e-3, warm_start=cold)
    assert warm.status == (Status.SOLVED,) * len(KINDS)
    assert int(warm.iterations.sum()) < int(cold.iterations.sum())
