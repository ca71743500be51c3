"""Solvers against cvxpy's answer, against each other, and against what they promise."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from percep import InputError, Multipliers, Program, SSIMBall, Status, Window, solve
from percep.ball.batch import per_image
from percep.solvers import SOLVERS, Dual, Oracle, Tiles
from percep.solvers.lagrangian import NormalEquations, dual_bound, feasible_multipliers
from tests.support.references import KINDS, LEVELS, photograph, random_like, reference

SEEDS = st.integers(0, 2**31)
TILED = Window.uniform(4, stride=4, padding="valid")


def program(kind: str, seed: int, rho: float, ball: dict, size: int = 24, dtype=torch.float64, channels=1) -> Program:
    x = reference(kind, size, channels, seed).to(dtype)
    linear = random_like(x, seed)
    if rho > 0:
        # Of the size at which both the constraints and the quadratic matter.
        return Program(SSIMBall(x, **ball), 0.1 * linear, rho, 0.05 * random_like(x, seed + 1))
    return Program(SSIMBall(x, **ball), linear)


@pytest.mark.slow("the oracle is a conic solver, which takes seconds for a program")
@pytest.mark.parametrize("rho", [0.0, 1.0])
@pytest.mark.parametrize("level", LEVELS)
def test_dual_agrees_with_the_conic_solver_on_random_programs(level, rho):
    ball = LEVELS[level] | {"window": Window.gaussian(7, 1.0)}
    for seed, kind in enumerate(KINDS):
        task = program(kind, seed, rho, ball, size=12)
        exact = solve(task, Oracle(), tol=1e-4)
        answer = solve(task, Dual(), tol=1e-3)
        best, bound = float(exact.objective), float(answer.bound)
        gain = best - float(task.objective(torch.zeros_like(answer.delta)))
        assert exact.status == (Status.SOLVED,), f"{kind} {seed}: oracle gap {float(exact.gap):.1e}"
        assert answer.status == (Status.SOLVED,) and float(answer.gap) < 2e-3
        assert float(answer.objective) == pytest.approx(best, abs=1e-3 * gain)
        assert bound >= best - 1e-9 * abs(best)
        assert bool(task.ball.contains(task.ball.reference + answer.delta))


@pytest.mark.slow("the oracle is a conic solver, which takes seconds for a program")
@pytest.mark.parametrize("rho", [0.0, 1.0])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "window",
    [
        Window.uniform(8, stride=4, padding="valid"),
        Window.gaussian(7, stride=2),
        Window.uniform(6, 6, "valid"),
    ],
)
def test_dual_agrees_with_the_conic_solver_for_other_windows(window, level, rho):
    task = program("photograph", 1, rho, {**LEVELS[level], "window": window}, channels=3, size=18)
    exact, answer = solve(task, Oracle(), tol=1e-4), solve(task, Dual(), tol=1e-3)
    assert answer.status == (Status.SOLVED,)
    gain = float(exact.objective - task.objective(torch.zeros_like(answer.delta)))
    assert float(answer.objective) == pytest.approx(float(exact.objective), abs=1e-3 * gain)
    assert float(answer.bound) >= float(exact.objective) - 1e-9 * abs(float(exact.objective))


@pytest.mark.parametrize("rho", [0.0, 1.0])
@pytest.mark.parametrize("level", LEVELS)
def test_tiles_are_exact_away_from_the_pixel_range(level, rho):
    window = Window.uniform(6, stride=6, padding="valid")
    x = 0.3 + 0.4 * photograph(3, 24, channels=3)
    task = Program(SSIMBall(x, window=window, **LEVELS[level]), random_like(x, 1), 20 * rho, 0.02 * random_like(x, 2))
    exact, answer = solve(task, Oracle(), tol=1e-5), solve(task, Tiles(), tol=1e-6)
    assert answer.status == (Status.SOLVED,), float(answer.gap)
    assert float(answer.objective) == pytest.approx(float(exact.objective), rel=1e-6)


@pytest.mark.slow("every program is solved by a conic solver too")
@pytest.mark.parametrize("rho", [0.0, 1.0])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["photograph", "black", "saturated"])
def test_tiles_are_exact_at_the_pixel_range(kind, level, rho):
    window = Window.uniform(6, stride=6, padding="valid")
    task = program(kind, 1, rho, {**LEVELS[level], "window": window}, size=20)
    exact, answer = solve(task, Oracle(), tol=1e-5), solve(task, Tiles(), tol=1e-5)
    assert answer.status == (Status.SOLVED,), float(answer.gap)
    assert float(answer.objective) == pytest.approx(float(exact.objective), rel=1e-5)
    assert float(answer.bound) >= float(exact.objective) - 1e-9 * abs(float(exact.objective))


def test_gaussian_tiles_are_exact_at_the_pixel_range():
    window = Window.gaussian(5, stride=5, padding="valid")
    task = program("black", 1, 0.0, {"floor": 0.9, "window": window}, size=20)
    exact, answer = solve(task, Oracle(), tol=1e-5), solve(task, Tiles(), tol=1e-5)
    assert answer.status == (Status.SOLVED,), float(answer.gap)
    assert float(answer.objective) == pytest.approx(float(exact.objective), rel=1e-5)


@pytest.mark.slow("solves a hundred programs to 1e-6")
@pytest.mark.parametrize("levels", [{"floor": 0.9}, {"floor": 0.97, "mean": 0.99}], ids=["floor", "both"])
def test_tiles_find_multipliers_that_only_the_pixel_range_makes_scarce(levels):
    """Clipping can take a tile out of its floor that would be inside it without the range."""
    seeds = torch.Generator().manual_seed(0)
    x = (torch.rand(100, 1, 8, 8, generator=seeds, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    tiles = torch.rand(100, 1, 2, 2, generator=seeds, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=seeds, dtype=torch.float64)
    pull = (x * noise[:, :, :1, :1].sign() + 0.1 * noise) * F.interpolate(10 ** (-3 * tiles), scale_factor=4)
    ball = SSIMBall(x, window=TILED, **levels)
    answer = solve(Program(ball, pull), Tiles(), tol=1e-6)
    assert float(answer.gap.max()) <= 1e-6


@pytest.mark.parametrize(
    "window", [Window.gaussian(), Window.uniform(8, stride=4, padding="valid"), Window.uniform(6, 2)]
)
def test_tiles_approximate_overlapping_windows_with_a_true_bound(window):
    task = program("photograph", 1, 0.0, {"floor": 0.9, "window": window}, size=32)
    rough, exact = solve(task, Tiles(), tol=1e-3), solve(task, Dual(), tol=1e-3)
    assert bool(task.ball.contains(task.ball.reference + rough.delta))
    assert 0.2 * float(exact.objective) < float(rough.objective) <= float(exact.bound)
    assert float(rough.bound) >= float(exact.objective)
    assert rough.status == (Status.ITERATION_LIMIT,)


def test_tiles_refuse_what_does_not_separate():
    x = photograph(3, 24)
    tiles = SSIMBall(x, floor=0.9, window=Window.gaussian(5, stride=5, padding="valid"))
    with pytest.raises(InputError, match="uniform"):
        solve(Program(tiles, x, 1.0), "tiles")
    with pytest.raises(InputError, match="same in all"):
        solve(Program(SSIMBall(x, floor=torch.full((1, 3, 24, 24), 0.9)), x), "tiles")


@pytest.mark.slow("many random programs")
@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(KINDS),
    SEEDS,
    st.sampled_from(list(LEVELS)),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 12),
)
def test_every_answer_is_feasible_whenever_it_stops(kind, seed, level, rho, dtype, iterations):
    task = program(kind, seed, rho, LEVELS[level], dtype=dtype, size=16, channels=2)
    answer = solve(task, Dual(max_iterations=iterations, check_every=4), tol=1e-9)
    x = task.ball.reference
    assert float(task.ball.scale(answer.delta)) == 1
    assert bool(task.ball.double.contains(x.double() + answer.delta.double()))
    assert float((x + answer.delta).min()) >= 0 and float((x + answer.delta).max()) <= 1
    assert float(answer.bound) >= float(answer.objective)
    assert float(answer.objective) == pytest.approx(float(task.objective(answer.delta)), rel=1e-6)


@pytest.mark.slow("many random programs")
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), SEEDS, st.sampled_from(list(LEVELS)), st.sampled_from([0.0, 1.0]))
def test_the_bound_holds_for_any_multipliers_and_any_point(kind, seed, level, rho):
    task = program(kind, seed, rho, LEVELS[level], size=16)
    feasible = random_like(task.linear, seed + 2)
    feasible = (task.ball.reference + feasible).clamp(0, 1) - task.ball.reference
    feasible = task.ball.scale(feasible).reshape(-1, 1, 1, 1) * feasible
    ascent = solve(task, Dual(max_iterations=5), tol=1.0).delta
    generator = torch.Generator().manual_seed(seed)
    values = [torch.rand(task.ball.map_shape, dtype=torch.float64, generator=generator) * 20 for _ in range(2)]
    multipliers = Multipliers.of(
        values[0] if task.ball.floor is not None else None,
        values[1] if task.ball.floor is not None else None,
        torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64) if task.ball.mean is not None else None,
    )
    bound = dual_bound(task, multipliers, 0.1 * random_like(task.linear, seed + 3))
    for point in (feasible, ascent, torch.zeros_like(feasible)):
        assert float(bound) >= float(task.objective(point)) - 1e-12


@pytest.mark.parametrize("others", [name for name in LEVELS if name != "both"])
def test_a_bound_of_other_constraints_multipliers_is_refused(others):
    """Those of a floor alone, or of a mean alone, say nothing of a program with both."""
    task, other = (program("photograph", 2, 0.0, LEVELS[name], size=16) for name in ("both", others))
    point = torch.zeros_like(task.linear)
    for mine, foreign in ((task, other), (other, task)):
        with pytest.raises(InputError, match="multipliers of the constraints of its ball"):
            dual_bound(mine, feasible_multipliers(foreign), point)


def test_normal_equations_are_the_gradient_of_the_lagrangian():
    task = program("photograph", 2, 1.0, LEVELS["both"])
    ball = task.ball
    generator = torch.Generator().manual_seed(1)
    values = [torch.rand(ball.map_shape, dtype=torch.float64, generator=generator) for _ in range(2)]
    multipliers = Multipliers.of(*values, torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64))
    delta = (0.1 * random_like(task.linear, 9)).requires_grad_()
    assert ball.floor_sets is not None and ball.ellipsoid is not None
    window, x = ball.window, ball.reference

    def spread(v):
        return window.mean(v * v) - window.mean(v) ** 2

    lagrangian = (
        (task.linear * delta).sum()
        - 0.5 * ((delta - task.anchor) ** 2).sum()
        - (values[0] * (window.mean(delta - ball.floor_sets.luminance.k * x)) ** 2).sum()
        - (values[1] * spread(delta - ball.floor_sets.contrast.k * x)).sum()
        - 0.7 * (ball.ellipsoid.luminance * window.mean(delta) ** 2 + ball.ellipsoid.contrast * spread(delta)).sum()
    )
    (gradient,) = torch.autograd.grad(lagrangian, delta)
    equations = NormalEquations(task, multipliers)
    torch.testing.assert_close(equations.rhs - equations.product(delta.detach()), gradient, rtol=1e-10, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(KINDS), SEEDS, st.sampled_from(list(LEVELS)))
def test_preconditioner_is_symmetric_positive_definite(kind, seed, level):
    task = program(kind, seed, 0.0, LEVELS[level], size=20)
    ones = torch.ones(task.ball.map_shape, dtype=torch.float64)
    multipliers = Multipliers.of(
        None if task.ball.floor is None else 0.01 * ones,
        None if task.ball.floor is None else ones,
        None if task.ball.mean is None else ones[:1, :1, :1, :1],
    )
    apply = NormalEquations(task, multipliers).preconditioner
    u, v = random_like(task.linear, seed + 1), random_like(task.linear, seed + 2)
    left, right = per_image(apply(u) * v), per_image(u * apply(v))
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9 * float(apply(u).norm() * v.norm()))
    assert float(per_image(apply(u) * u)) > 0


def test_images_of_a_batch_do_not_meet():
    x = torch.cat([photograph(3, 24), 0.1 * photograph(4, 24), photograph(5, 24)])
    linear = torch.cat([random_like(x[:1], i) * 10.0**i for i in range(3)])
    together = solve(Program(SSIMBall(x, floor=0.95, mean=0.995), linear), tol=1e-3)
    for i in range(3):
        alone = solve(Program(SSIMBall(x[i : i + 1], floor=0.95, mean=0.995), linear[i : i + 1]), tol=1e-3)
        assert int(alone.iterations[0]) == int(together.iterations[i])
        torch.testing.assert_close(alone.delta[0], together.delta[i], rtol=0, atol=1e-9)


@pytest.mark.slow("whole solves")
def test_a_bad_image_gets_a_status_and_the_others_their_answer():
    x = torch.cat([photograph(3, 16)] * 4)
    linear = random_like(x, 1)
    linear[1] = 0
    linear[2, 0, 0, 0] = torch.inf
    x[3, 0, 0, 0] = torch.nan
    answer = solve(Program(SSIMBall(x, floor=0.9), linear))
    assert answer.status == (Status.SOLVED, Status.SOLVED, Status.NOT_FINITE, Status.NOT_FINITE)
    alone = solve(Program(SSIMBall(x[:1], floor=0.9), linear[:1]))
    torch.testing.assert_close(answer.delta[0], alone.delta[0])
    assert not answer.delta[1:].any()
    assert answer.objective[1] == 0 and answer.bound[1] == 0 and answer.gap[1] == 0
    assert torch.isnan(answer.objective[2:]).all()


def test_scaling_the_objective_scales_the_answer():
    task = program("photograph", 1, 1.0, LEVELS["both"])
    large = Program(task.ball, 1e6 * task.linear, 1e6, task.anchor)
    small, big = solve(task), solve(large)
    torch.testing.assert_close(big.delta, small.delta, rtol=0, atol=1e-9)
    assert float(big.bound) == pytest.approx(1e6 * float(small.bound), rel=1e-9)


def test_projection_of_a_feasible_point_is_that_point():
    x = photograph(3, 24)
    ball = SSIMBall(x, floor=0.9)
    anchor = (x + 0.5 * random_like(x, 1)).clamp(0, 1) - x
    anchor = 0.9 * float(ball.scale(anchor)) * anchor
    answer = solve(Program(ball, torch.zeros_like(x), 1.0, anchor), Dual(max_iterations=40), tol=1e-9)
    assert float((answer.delta - anchor).norm()) < 1e-2 * float(anchor.norm())


def test_a_warm_start_with_the_answer_certifies_at_the_first_check():
    task = program("flat", 1, 0.0, LEVELS["floor"], size=16)
    cold = solve(task, tol=2e-3)
    warm = solve(Program(task.ball, 3 * task.linear), tol=2e-3, warm_start=cold)
    assert int(cold.iterations) > int(warm.iterations)
    assert warm.status == (Status.SOLVED,)


def test_bad_programs_are_refused():
    x = photograph(3, 24)
    ball = SSIMBall(x, floor=0.9)
    with pytest.raises(InputError, match="linear must match"):
        Program(ball, x.float())
    with pytest.raises(InputError, match="proximal"):
        Program(ball, x, -1.0)
    with pytest.raises(InputError, match="proximal"):
        Program(ball, x, torch.tensor([1.0, 2.0]))
    with pytest.raises(InputError, match="unknown solver"):
        solve(Program(ball, x), "simplex")
    with pytest.raises(InputError, match="tol"):
        solve(Program(ball, x), tol=0.0)
    large = torch.zeros(1, 3, 160, 160)
    with pytest.raises(InputError, match="at most"):
        solve(Program(SSIMBall(large, floor=0.9), large + 1), Oracle())


def tiled(rho: float = 1.0) -> Program:
    x = torch.cat([photograph(i, 8, channels=1) for i in (3, 4, 5)])
    return Program(SSIMBall(x, floor=0.9, mean=0.95, window=TILED), random_like(x, 1), rho)


@pytest.mark.slow("whole solves")
@pytest.mark.parametrize("solver", [solver() for solver in SOLVERS.values()], ids=SOLVERS)
def test_a_solvers_own_verb_is_percep_solve(solver):
    """Terms of any size, an image that is not finite, one that nothing pulls: the others are answered as ever."""
    task = tiled()
    whole = solver.solve(task, 1e-2)
    assert whole.status == (Status.SOLVED,) * 3
    linear, x = 1e12 * task.linear, task.ball.reference.clone()
    linear[0] = 0
    x[1, 0, 0, 0] = torch.nan
    broken = Program(SSIMBall(x, floor=0.9, mean=0.95, window=TILED), linear, 1e12)
    answers = [solver.solve(broken, 1e-2), solve(broken, solver, 1e-2)]
    for answer in answers:
        assert answer.status == (Status.SOLVED, Status.NOT_FINITE, Status.SOLVED)
        assert not answer.delta[:2].any() and torch.isnan(answer.gap[1])
        torch.testing.assert_close(answer.delta[2], whole.delta[2], rtol=0, atol=1e-3)
    assert torch.equal(answers[0].delta, answers[1].delta)
    with pytest.raises(InputError, match="tol must be positive"):
        solver.solve(task, float("nan"))
    assert solver.solve(task.select(torch.arange(0))).status == ()


@pytest.mark.slow("whole solves, by every solver")
@pytest.mark.parametrize("solver", [solver() for solver in SOLVERS.values()], ids=SOLVERS)
@pytest.mark.parametrize("spoilt", ["not finite", "nothing pulled"])
def test_an_image_without_an_earlier_answer_starts_anew(solver, spoilt):
    task = tiled()
    linear = task.linear.clone()
    linear[1] = 0 if spoilt == "nothing pulled" else torch.nan
    earlier = solve(Program(task.ball, linear, 1.0), solver, 1e-2)
    again = solve(task, solver, 1e-2, earlier)
    assert again.status == (Status.SOLVED,) * 3
    assert again.delta[1].any()


def test_a_warm_start_of_another_program_is_refused():
    task = tiled()
    answer = solve(task, tol=1e-2)
    with pytest.raises(InputError, match=r"same shape, \(2, 1, 8, 8\)"):
        solve(task.select(torch.tensor([0, 1])), tol=1e-2, warm_start=answer)
    for levels in ({"floor": 0.9}, {"mean": 0.9}):
        other = Program(SSIMBall(task.ball.reference, window=TILED, **levels), task.linear)
        with pytest.raises(InputError, match="same kinds of level"):
            solve(other, tol=1e-2, warm_start=answer)
    moved = Program(SSIMBall(task.ball.reference, floor=0.9, mean=0.9, window=Window.uniform(2, 2)), task.linear)
    with pytest.raises(InputError, match="same window"):
        solve(moved, tol=1e-2, warm_start=answer)


def test_a_gradient_that_wants_one_is_no_part_of_the_answer():
    task = tiled()
    answer = solve(Program(task.ball, task.linear.requires_grad_()), tol=1e-2)
    assert not answer.delta.requires_grad


def test_what_does_not_match_the_reference_is_named():
    x = photograph(3, 8)
    ball = SSIMBall(x, floor=0.9, window=TILED)
    with pytest.raises(InputError, match=r"float64, got \(1, 3, 8, 8\) float32: give linear\.to\(reference\)"):
        Program(ball, x.float())
    with pytest.raises(InputError, match=r"anchor must be a torch\.Tensor, got ndarray"):
        Program(ball, x, 1.0, x.numpy())
