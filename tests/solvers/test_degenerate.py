"""Programs at the edge of what a user may pose, for every solver; and feasibility without exception."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from percep import InputError, Program, SSIMBall, Status, Window, solve
from percep.solvers import ADMM, SOLVERS, Dual, ProjectedGradient, Solver, Tiles
from percep.solvers.projected_gradient import _Iterate
from percep.ssim import View
from tests.support.programs import SHAPES, check, floor_map
from tests.support.references import KINDS, LEVELS, photograph, random_like, reference

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = {
    "dual": Dual(max_iterations=60),
    "admm": ADMM(max_iterations=100, check_every=25),
    "projected_gradient": ProjectedGradient(max_iterations=100, check_every=25),
    "tiles": Tiles(),
}
TILES = Window.uniform(4, stride=4, padding="valid")
NOT_FINITE = [(v, where) for v in (torch.nan, torch.inf, -torch.inf) for where in ("reference", "linear", "anchor")]
# Bisections within bisections: Tiles takes half a minute for a floor and a mean.
CASES = [(name, level) for name in SHORT for level in LEVELS if (name, level) != ("tiles", "both")]


def rho_of(name: str) -> float:
    return 1.0 if name == "projected_gradient" else 0.0


@pytest.mark.slow("whole solves, by every solver")
@pytest.mark.parametrize(("name", "level"), CASES)
def test_constant_images_and_one_hot_constant_and_tiny_linear_terms(name, level):
    constant = torch.stack([torch.full((3, 12, 12), value) for value in (0.0, 0.25, 1.0)]).double()
    x = torch.cat([constant, photograph(3, 12).expand(3, -1, -1, -1)])
    linear = random_like(x, 0)
    linear[3:] = 0
    linear[3, 1, 7, 9] = 1.0
    linear[4] = 1.0  # the luminance alone
    linear[5, :, 0, 0] = -1e-12
    rho = rho_of(name) * torch.tensor([1, 1, 1, 1, 1, 1e-12], dtype=torch.float64)
    program = Program(SSIMBall(x, **LEVELS[level]), linear, rho)
    answer = solve(program, SHORT[name], tol=1e-2)
    check(program, answer)
    # Doing nothing has a gap of 1.
    assert name == "tiles" or bool((answer.gap < 0.5).all()), answer.gap


@pytest.mark.slow("whole solves, by every solver")
@pytest.mark.parametrize("name", SHORT)
def test_the_smallest_and_oblong_images(name):
    for height, width in ((11, 11), (11, 40), (37, 12)):
        x = torch.rand(2, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))
        program = Program(SSIMBall(x, floor=0.95), random_like(x, 0), rho_of(name))
        answer = solve(program, SHORT[name], tol=1e-2)
        check(program, answer)
        assert bool((answer.gap < (0.7 if name == "tiles" else 0.05)).all()), answer.gap


@pytest.mark.parametrize("name", SHORT)
def test_no_pull_is_solved_by_nothing(name):
    x = photograph(3, 16)
    answer = solve(Program(SSIMBall(x, floor=0.9), torch.zeros_like(x), 1.0), SHORT[name], tol=1e-9)
    assert answer.status == (Status.SOLVED,)
    assert float(answer.delta.abs().max()) == float(answer.gap) == 0.0


@pytest.mark.parametrize("name", ["dual", "admm", "projected_gradient"])
def test_a_floor_per_window(name):
    x = photograph(3, 16, channels=1)
    floor = torch.full((1, 1, 16, 16), 0.9, dtype=torch.float64)
    floor[..., 8:] = 0.999
    ball = SSIMBall(x, floor=floor)
    program = Program(ball, random_like(x, 0), rho_of(name))
    answer = solve(program, SHORT[name], tol=1e-2)
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


@pytest.mark.slow("a hundred images sixteen times")
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


class Batch:
    """What the tests below spoil: three 8x8 images with a floor and a mean on four tiles, which every solver holds."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.reference = torch.cat([photograph(i, 8, channels=1) for i in (3, 4, 5)]).to(dtype)
        self.linear, self.anchor = random_like(self.reference, 1), 0.1 * random_like(self.reference, 2)
        self.rho: float | torch.Tensor = 1.0

    def program(self) -> Program:
        ball = SSIMBall(self.reference, floor=0.9, mean=0.95, window=TILES)
        return Program(ball, self.linear, self.rho, self.anchor)


@pytest.fixture(params=SOLVERS)
def solver(request: pytest.FixtureRequest) -> Solver:
    """Each solver that has a name, a new one as well."""
    if request.param == "oracle":
        pytest.importorskip("cvxpy")
    return SOLVERS[request.param]()


@pytest.mark.slow("whole solves, by every solver")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_that_is_not_finite_changes_no_other(solver, dtype):
    others = torch.tensor([0, 2])
    alone = solver.solve(Batch(dtype).program().select(others), tol=1e-2)
    assert alone.status == (Status.SOLVED,) * 2
    for value, where in NOT_FINITE[::4]:
        batch = Batch(dtype)
        getattr(batch, where)[1, 0, 2, 3] = value
        answer = solver.solve(batch.program(), tol=1e-2)
        assert answer.status == (Status.SOLVED, Status.NOT_FINITE, Status.SOLVED)
        assert torch.equal(answer.delta[others], alone.delta)
        assert torch.equal(answer.bound[others], alone.bound)
        assert not answer.delta[1].any() and bool(torch.isnan(answer.bound[1])) and bool(torch.isnan(answer.gap[1]))


@pytest.mark.parametrize(("value", "where"), NOT_FINITE)
def test_a_value_that_is_not_finite_is_found_wherever_it_is(value, where):
    batch = Batch()
    getattr(batch, where)[1, 0, 2, 3] = value
    answer = solve(batch.program(), Dual(max_iterations=1))
    assert answer.status == (Status.ITERATION_LIMIT, Status.NOT_FINITE, Status.ITERATION_LIMIT)


def test_every_image_not_finite_is_answered(solver):
    batch = Batch()
    batch.linear[:, 0, 0, 0] = torch.nan
    answer = solver.solve(batch.program())
    assert answer.status == (Status.NOT_FINITE,) * 3
    assert not answer.delta.any()


def test_no_linear_term_beside_others(solver):
    batch = Batch()
    batch.linear[1] = batch.anchor[1] = 0
    answer = solver.solve(batch.program(), tol=1e-2)
    assert answer.status == (Status.SOLVED,) * 3
    assert not answer.delta[1].any() and answer.bound[1] == answer.gap[1] == 0
    assert answer.delta[0].any() and answer.delta[2].any()


@pytest.mark.slow("whole solves, by every solver")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_size_of_the_objective_changes_no_answer(solver, dtype):
    """But for rounding, which may let a solver stop one iteration sooner."""
    batch = Batch(dtype)
    expected = solver.solve(batch.program(), tol=1e-3)
    sizes = torch.tensor([1e-30, 1.0, 1e12], dtype=dtype)
    batch.linear, batch.rho = sizes.reshape(-1, 1, 1, 1) * batch.linear, sizes
    answer = solver.solve(batch.program(), tol=1e-3)
    assert answer.status == expected.status == (Status.SOLVED,) * 3
    atol = 1e-5 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(answer.delta, expected.delta, rtol=0, atol=atol)
    torch.testing.assert_close(answer.bound / sizes, expected.bound, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rho", [1e6, 1e12, 1e30])
def test_a_huge_rho_is_solved(solver, dtype, rho):
    """Without an anchor by d = g / rho, else by the projection of the anchor."""
    batch = Batch(dtype)
    batch.rho = rho
    assert solver.solve(batch.program(), tol=1e-2).status == (Status.SOLVED,) * 3
    batch.anchor[:] = 0
    answer = solver.solve(batch.program(), tol=1e-2)
    assert answer.status == (Status.SOLVED,) * 3
    inside = (batch.linear / rho).clamp(-batch.reference, 1 - batch.reference)
    torch.testing.assert_close(answer.delta, inside, rtol=1e-6, atol=0)


@pytest.mark.slow("whole solves, by every solver")
@pytest.mark.parametrize("value", [0.0, 1.0], ids=["black", "white"])
def test_black_and_white_images(solver, value):
    batch = Batch()
    batch.reference[:] = value
    program = batch.program()
    answer = solver.solve(program, tol=1e-2)
    check(program, answer)
    assert answer.status == (Status.SOLVED,) * 3


def test_an_optimum_inside_the_ball_needs_no_iteration():
    batch = Batch()
    batch.anchor *= 1e-3
    batch.linear *= 1e-4
    batch.anchor[1] *= 1e3
    program = batch.program()
    answer = solve(program, Dual(), tol=1e-2)
    check(program, answer)
    assert answer.iterations[0] == answer.iterations[2] == 0 < answer.iterations[1]
    free = (batch.anchor + batch.linear).clamp(-batch.reference, 1 - batch.reference)
    assert torch.equal(answer.delta[[0, 2]], free[[0, 2]]) and not torch.equal(answer.delta[1], free[1])
    for values in answer.multipliers.present():
        assert not values[[0, 2]].any() and values[1].any()
    # No multipliers to start from: the next program is answered as if there had been none.
    batch.anchor *= 1e3
    cold, warm = solve(batch.program(), Dual()), solve(batch.program(), Dual(), warm_start=answer)
    torch.testing.assert_close(warm.delta[[0, 2]], cold.delta[[0, 2]], rtol=0, atol=1e-9)


def test_the_moments_of_the_references_are_computed_once(monkeypatch):
    batch = Batch()
    batch.reference[1, 0, 0, 0] = torch.nan
    computed, view_of = [], View.of
    monkeypatch.setattr(View, "of", lambda *arguments: computed.append(arguments) or view_of(*arguments))
    answer = solve(batch.program(), Dual(), tol=1e-2)
    assert answer.status == (Status.SOLVED, Status.NOT_FINITE, Status.SOLVED)
    assert len(computed) == 1


def test_an_image_is_not_given_up_for_a_bound_that_is_no_number(monkeypatch):
    candidate, calls = _Iterate.candidate, []

    def without_bound_at_first(iterate):
        calls.append(iterate)
        found = candidate(iterate)
        return found._replace(bound=torch.full_like(found.bound, torch.nan)) if len(calls) == 1 else found

    monkeypatch.setattr(_Iterate, "candidate", without_bound_at_first)
    program = Batch().program()
    answer = solve(program, ProjectedGradient(), tol=1e-2)
    assert len(calls) > 1
    check(program, answer)
    assert answer.status == (Status.SOLVED,) * 3


def test_an_answer_of_another_shape_is_refused():
    class Half(Dual):
        def answer(self, program, tol, warm_start):
            return super().answer(program, tol, warm_start).select(torch.tensor([0]))

    with pytest.raises(InputError, match=r"Half\.answer must give"):
        solve(Batch().program(), Half())


@pytest.mark.parametrize("solver", [Dual, ADMM, ProjectedGradient])
@pytest.mark.parametrize("name", ["max_iterations", "check_every"])
def test_no_iterations_are_refused(solver, name):
    with pytest.raises(InputError, match=f"{name} must be at least 1"):
        solver(**{name: 0})
