"""Dual held to the conic solver over windows, levels, rho and precisions, on five kinds of reference."""

import pytest
from programs import WINDOWS, agrees, in_single, nears, oracle, task
from references import KINDS
from test_solvers import LEVELS

from percep import Status, solve
from percep.solvers import Dual

# Next to their terms, the optima of the projections onto a floor are small differences; see `nears`.
_CANCELLING = {("gaussian", "floor", 1.0), ("strided", "floor", 1.0)}
# A thousand iterations and more for the last digit.
_SLOW = {("gaussian", "floor", 0.0)}
CASES = [(window, level, rho) for window in WINDOWS for level in LEVELS for rho in (0.0, 1.0)]


@pytest.mark.parametrize(("window", "level", "rho"), CASES)
def test_dual_agrees_with_the_conic_solver_to_a_ten_thousandth(window, level, rho):
    if (window, level, rho) in _CANCELLING:
        nears(Dual(), rho, window)
    else:
        agrees(Dual(), window, level, rho, tol=1e-3 if (window, level, rho) in _SLOW else 1e-4)


@pytest.mark.parametrize(("window", "level", "rho"), [case for case in CASES if case not in _CANCELLING])
def test_in_single_precision_the_answer_is_certified_in_double(window, level, rho):
    program, exact = in_single(task(window, level, rho)), oracle(window, level, rho)
    answer = solve(program, Dual(), tol=1e-3)
    assert answer.status == (Status.SOLVED,) * len(KINDS), answer.gap
    exactly = program.ball.double
    assert bool((exactly.scale(answer.delta) == 1).all())
    assert bool(exactly.contains(exactly.reference + answer.delta.double()).all())
    # The program itself was rounded.
    assert bool(((answer.objective - exact.objective).abs() <= 1.1e-3 * exact.objective.abs()).all())


@pytest.mark.parametrize("level", ["floor", "both"])
def test_three_channels(level):
    agrees(Dual(), "strided", level, 0.0, channels=3)
