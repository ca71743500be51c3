"""Projections onto the true set: inside as certified, as near as another method comes, not moved without need."""

import pytest
import torch
from torch import Tensor

import percep
from percep import InputError, Program, SSIMBall, Status, Window, certify, project, solve
from percep.ball.membership import keeps_ssim
from percep.ssim import ssim_losses
from tests.support.references import KINDS, photograph, random_like, reference

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = {"floor": {"floor": 0.9}, "mean": {"mean": 0.9}, "both": {"floor": 0.7, "mean": 0.9}}
WINDOWS = (Window.gaussian(), Window.uniform(8, stride=4), Window.uniform(6, stride=6, padding="valid"))


def references(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.cat([reference(kind, size) for kind in KINDS]).to(dtype)


def distances(first: Tensor, second: Tensor) -> Tensor:
    return (first.double() - second.double()).flatten(1).norm(dim=1)


@pytest.mark.slow("several rounds of solves")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("window", WINDOWS[1:])
def test_images_are_inside_and_nearer_than_those_of_the_convex_set(level, window):
    x = references(16, torch.float32)
    images = (x + 0.1 * random_like(x, 0)).clamp(-1, 2)
    found = project(images, x, window=window, **LEVELS[level])
    report = certify(x, found.images, window=window, **LEVELS[level])
    assert bool(report.within.all()) and found.images.dtype == x.dtype
    assert set(found.status) == {Status.SOLVED} and bool((found.gap <= 1e-3).all())
    torch.testing.assert_close(found.distance, distances(found.images, images))
    program = Program(SSIMBall(x, window=window, **LEVELS[level]), proximal=1.0, anchor=images - x)
    convex = distances(x + solve(program).delta, images)
    assert bool((found.distance <= convex * (1 + 1e-3)).all())
    if level != "both":
        assert float(found.distance[0]) < 0.98 * float(convex[0])


@pytest.mark.slow("an optimiser of another kind")
@pytest.mark.parametrize("level", ["floor", "mean"])
def test_an_augmented_lagrangian_on_the_true_set_finds_nothing_much_nearer(level):
    x = torch.cat([photograph(index, 14, 1) for index in (1, 4)])
    images = (x + 0.1 * random_like(x, 0)).clamp(0, 1)
    found = project(images, x, **LEVELS[level]).distance
    best = _augmented_lagrangian(images, x, **LEVELS[level])
    assert bool((found <= 1.015 * best).all()), (found, best)


def _augmented_lagrangian(images: Tensor, x: Tensor, floor: float | None = None, mean: float | None = None) -> Tensor:
    """The least distances that Adam finds, of iterates pulled inside along the ray from the reference."""
    level = mean if floor is None else floor
    ball, window = SSIMBall(x, floor, mean), Window.gaussian()
    y = ((x + images) / 2).requires_grad_()

    def missing() -> Tensor:
        ssim = ssim_losses(x, y, window).ssim()
        return level - (ssim if mean is None else ssim.mean((1, 2, 3), keepdim=True))

    multipliers, penalty = torch.zeros_like(missing()), 5.0 if mean is None else 100.0
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for outer in range(10):
        adam = torch.optim.Adam([y], lr=5e-3 * 0.65**outer)
        for _ in range(50):
            excess = (multipliers + penalty * missing()).clamp_min(0).square() / (2 * penalty)
            value = (y - images).square().sum() / 2 + excess.sum()
            adam.zero_grad()
            value.backward()
            adam.step()
            y.data.clamp_(0, 1)
        with torch.no_grad():
            multipliers, penalty = (multipliers + penalty * missing()).clamp_min(0), 1.6 * penalty
            least, most = torch.zeros(len(x)).double(), torch.ones(len(x)).double()
            for _ in range(30):
                middle = (least + most) / 2
                kept = keeps_ssim(ball, middle.reshape(-1, 1, 1, 1) * (y - x))
                least, most = torch.where(kept, middle, least), torch.where(kept, most, middle)
            best = torch.minimum(best, distances(x + least.reshape(-1, 1, 1, 1) * (y - x), images))
    return best


@pytest.mark.parametrize("level", LEVELS)
def test_an_image_inside_stays_what_it_is(level):
    x = references(16, torch.float32)
    inside = (x + 1e-4 * random_like(x, 0)).clamp(0, 1)
    beyond_white = torch.where(x == 1, 1.004, inside)
    for images in (x, inside, beyond_white):
        found = project(images, x, **LEVELS[level])
        assert torch.equal(found.images, images.clamp(0, 1)) and bool(found.unchanged.all())
        assert set(found.status) == {Status.SOLVED} and not bool(found.gap.any())
    assert float(found.distance[3]) == pytest.approx(4e-3 * float((x[3] == 1).sum()) ** 0.5, rel=1e-3)


@pytest.mark.slow("several rounds of solves")
def test_a_batch_is_its_images_one_by_one():
    x = references(14)[[0, 1, 4]]
    images = (x + 0.05 * random_like(x, 3)).clamp(0, 1)
    images[1] = x[1]
    together = project(images, x, floor=0.9)
    for index in range(len(x)):
        alone = project(images[index : index + 1], x[index : index + 1], floor=0.9)
        torch.testing.assert_close(alone.images[0], together.images[index], rtol=0, atol=1e-5)
        assert alone.unchanged[0] == together.unchanged[index] and alone.status[0] == together.status[index]


def test_what_is_not_finite_spoils_nothing_else():
    x = references(14)
    images = (x + 0.05 * random_like(x, 3)).clamp(0, 1)
    expected = project(images[2:], x[2:], mean=0.99)
    images[0, 0, 0, 0], x[1, 0, 5, 5] = torch.nan, torch.inf
    found = project(images, x, mean=0.99)
    assert found.status[:2] == (Status.NOT_FINITE,) * 2 and found.status[2:] == expected.status
    assert bool(found.distance[:2].isnan().all()) and not bool(found.unchanged[:2].any())
    assert torch.equal(found.images[0], x[0]) and torch.equal(found.images[2:], expected.images)
    assert list(found.to_pandas().columns) == ["status", "distance", "unchanged", "gap"]
    assert "2 not_finite" in repr(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((1, 1, 16, 16), 300.0).double()}, r"scale of \[0, 1\]"),
        ({"images": torch.rand(1, 1, 16, 16)}, "must be like the reference"),
        ({"images": torch.rand(2, 1, 16, 16).double()}, "of one shape"),
        ({"floor": None}, "a floor, a mean or both"),
        ({"floor": 1.5}, r"floor must lie in \(0, 1\)"),
        ({"tol": 0.0}, "tol"),
    ],
)
def test_what_cannot_be_projected_is_refused(change, message):
    x = reference("photograph", 16)
    with pytest.raises(InputError, match=message):
        project(**({"images": x, "reference": x, "floor": 0.9} | change))


def test_a_split_floor_is_the_floor_and_holds_what_it_is_split_at():
    x = references(16)
    ball = SSIMBall(x, floor=0.9)
    delta = 0.999 * ball.boundary(random_like(x, 5)).reshape(-1, 1, 1, 1) * random_like(x, 5)
    moved = ball.split_at(delta)
    first, second = moved.floor_factors
    torch.testing.assert_close(first * second, ball.floor.expand_as(first))
    assert bool(((first < 1) & (second < 1)).all())
    # A perturbation that the first split refuses, although it keeps the floor.
    farther = delta.clone()
    for _ in range(3):
        farther = 1.02 * farther
    keeps = keeps_ssim(ball, farther) & ~ball.contains((x + farther).clamp(0, 1))
    assert bool(keeps.any())
    assert bool((ball.split_at(farther).contains(x + farther) | ~keeps).all())
    assert torch.equal(moved.select(torch.tensor([1, 3])).floor_factors[0], first[[1, 3]])
    with pytest.raises(InputError, match="without a floor"):
        SSIMBall(x, mean=0.9).split_at(delta)


@pytest.mark.parametrize("level", LEVELS)
def test_an_anchor_at_the_ends_of_the_range_needs_no_solver(level):
    x = references(16)
    program = Program(SSIMBall(x, **LEVELS[level]), proximal=2.0, anchor=1e-3 * random_like(x, 1))
    answer = solve(program, tol=1e-12)
    assert answer.iterations.tolist() == [0] * len(x) and not bool(answer.gap.any())
    assert bool(((x + answer.delta == 0) | (x + answer.delta == 1)).any())


def test_the_gap_is_a_share_of_what_can_be_gained():
    x = references(11)
    anchor = 0.2 * random_like(x, 1)
    program = Program(SSIMBall(x, floor=0.9), 0.1 * random_like(x, 2), 0.5, anchor)
    answer = solve(program, tol=1e-2)
    zero = -0.25 * anchor.square().sum((1, 2, 3))
    torch.testing.assert_close(answer.gap, (answer.bound - answer.objective) / (answer.bound - zero))
    # Whatever the anchor's distance, the answer is that near to the best one.
    exact = solve(program, "interior_point", tol=1e-8)
    for near in (1e-1, 1e-3):
        rough = solve(Program(program.ball, proximal=1.0, anchor=near * random_like(x, 3)), tol=1e-2)
        best = solve(Program(program.ball, proximal=1.0, anchor=near * random_like(x, 3)), "interior_point", tol=1e-8)
        allowed = (rough.gap / (1 - rough.gap)).sqrt() * near * random_like(x, 3).flatten(1).norm(dim=1)
        assert bool((distances(rough.delta, best.delta) <= allowed + 1e-6).all())
        assert set(rough.status) == {Status.SOLVED}
    assert bool((answer.objective <= exact.bound + 1e-9).all())


def test_the_mean_s_multiplier_is_found_where_rho_outweighs_it():
    """The exponent 1/2 alone took hundreds of iterations: the violation hardly follows the multiplier."""
    x = references(24)
    for near in (0.02, 0.05, 0.2):
        program = Program(SSIMBall(x, mean=0.9), proximal=1.0, anchor=near * random_like(x, 3))
        answer = solve(program, percep.solvers.Dual(max_iterations=40), tol=1e-3)
        assert set(answer.status) == {Status.SOLVED}, (near, answer.gap)
