"""The ball is the sublevel set itself: membership, convexity, rays, and the mean's inner approximation."""

from dataclasses import fields, is_dataclass

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from torch import Tensor

from percep import InputError, Program, SSIMBall, SSIMBallLayer, Window, certify
from percep.ssim import ssim_losses, variance
from tests.support.references import KINDS, photograph, random_like, reference

WINDOWS = [
    Window.gaussian(),
    Window.gaussian(padding="valid"),
    Window.uniform(8, stride=4, padding="valid"),
    Window.uniform(6, stride=6, padding="valid"),
]
SEEDS = st.integers(0, 2**31)


def direction(shape: torch.Size, seed: int) -> Tensor:
    """A random perturbation, rough or smooth."""
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Window.gaussian(5, 1.0 + seed % 3).mean(noise) if seed % 2 else noise


def inside_range(x: Tensor, delta: Tensor) -> Tensor:
    return (x + delta).clamp(0, 1) - x


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(WINDOWS),
    SEEDS,
    st.floats(0.5, 0.999),
    st.floats(0.2, 0.8),
    st.floats(-4, 0),
)
def test_local_balls_are_exactly_the_sublevel_sets(kind, window, seed, floor, share, size):
    x = reference(kind, 24, seed=seed)
    ball = SSIMBall(x, floor=floor, window=window, luminance_share=share)
    delta = inside_range(x, 10**size * direction(x.shape, seed))
    losses = ssim_losses(x, x + delta, window)
    assert ball.floor_sets is not None
    luminance, contrast = ball.floor_sets.luminance, ball.floor_sets.contrast
    k = luminance.k
    within = (window.mean(delta) - k * window.mean(x)).abs() <= luminance.radius
    clear = (losses.luminance - (1 - floor**share)).abs() > 1e-9
    assert bool((within == (losses.luminance <= 1 - floor**share))[clear].all())
    k = contrast.k
    within = variance(window, delta - k * x).sqrt() <= contrast.radius
    clear = (losses.contrast - (1 - floor ** (1 - share))).abs() > 1e-9
    assert bool((within == (losses.contrast <= 1 - floor ** (1 - share)))[clear].all())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(WINDOWS), SEEDS, st.floats(0.6, 0.999), st.booleans())
def test_rays_end_on_the_boundary_and_never_outside(kind, window, seed, level, floor):
    x = reference(kind, 24, seed=seed)
    ball = SSIMBall(x, floor=level if floor else None, mean=None if floor else level, window=window)
    delta = inside_range(x, direction(x.shape, seed))
    factor = float(ball.scale(delta))
    assert 0 < factor <= 1
    assert bool(ball.contains(x + factor * delta))
    assert float(ball.scale(factor * delta)) == pytest.approx(1, abs=1e-8)
    if factor < 1 and floor:
        assert not bool(ball.contains(x + factor * (1 + 1e-6) * delta))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(WINDOWS),
    SEEDS,
    st.floats(0.6, 0.999),
    st.sampled_from(["floor", "mean", "both"]),
    st.floats(0, 1),
)
def test_chords_stay_inside(kind, window, seed, level, constraint, share):
    x = reference(kind, 24, seed=seed)
    ball = SSIMBall(
        x,
        floor=None if constraint == "mean" else level,
        mean=None if constraint == "floor" else 1 - (1 - level) / 2,
        window=window,
    )
    ends = [inside_range(x, direction(x.shape, seed + i)) for i in range(2)]
    first, second = (float(ball.scale(end)) * end for end in ends)
    middle = share * first + (1 - share) * second
    assert bool(ball.contains(x + (1 - 1e-9) * middle))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(WINDOWS), SEEDS, st.floats(0.6, 0.9999), st.booleans())
def test_mean_is_an_inner_approximation(kind, window, seed, level, with_floor):
    x = reference(kind, 24, channels=3, seed=seed)
    ball = SSIMBall(x, floor=0.8 * level if with_floor else None, mean=level, window=window)
    delta = inside_range(x, direction(x.shape, seed))
    delta = float(ball.scale(delta)) * delta
    assert float(ball.ssim_map(x + delta).mean()) >= level


@pytest.mark.slow("random balls, each with a search for its boundary")
@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["photograph", "flat", "noise"]), SEEDS, st.floats(0.98, 0.9999))
def test_expansion_reaches_the_true_boundary(kind, seed, level):
    x = 0.35 + 0.3 * reference(kind, 24, channels=3, seed=seed)
    ball = SSIMBall(x, mean=level)
    delta = direction(x.shape, seed)
    delta = 0.1 * delta / delta.abs().max()
    delta = float(ball.scale(delta)) * delta
    for _ in range(40):
        # The fixed point of scaling with denominators at the current point is mean(1 - S1 + 1 - S2) = 1 - level.
        expanded = ball.expand(delta)
        assert expanded.ellipsoid is not None
        losses = ssim_losses(x, x + delta, ball.window)
        spent = float((losses.luminance + losses.contrast).mean())
        delta = delta * ((1 - level) / spent) ** 0.5
    assert float(expanded.scale(delta)) == pytest.approx(1, abs=1e-6)
    assert float(ball.ssim_map(x + delta).mean()) >= level - 1e-9
    factor = float(ball.boundary(delta))
    assume(factor < 4)
    assert factor >= 1 - 1e-9
    edge = x + factor * delta
    assert bool(ball.contains(edge))
    if float(edge.min()) > 1e-6 and float(edge.max()) < 1 - 1e-6:
        assert float(ball.ssim_map(edge).mean()) == pytest.approx(level, abs=1e-6)


def test_channels_are_windows_of_their_own():
    x = photograph(3, 24)
    apart = SSIMBall(x.transpose(0, 1), floor=0.9)
    together = SSIMBall(x, floor=0.9)
    delta = inside_range(x, direction(x.shape, 1))
    assert float(together.scale(delta)) == pytest.approx(float(apart.scale(delta.transpose(0, 1)).min()), rel=1e-12)


def test_levels_may_differ_between_images_and_windows():
    x = torch.cat([photograph(3, 24), photograph(3, 24)])
    delta = inside_range(x, direction(x.shape[1:], 1)[None])
    single = [float(SSIMBall(x[:1], floor=t).scale(delta[:1])) for t in (0.9, 0.99)]
    batch = SSIMBall(x, floor=torch.tensor([0.9, 0.99], dtype=torch.float64)).scale(delta)
    assert batch.tolist() == pytest.approx(single, rel=1e-12)
    levels = torch.full((2, 3, 24, 24), 0.9, dtype=torch.float64)
    levels[1] = 0.99
    assert SSIMBall(x, floor=levels).scale(delta).tolist() == pytest.approx(single, rel=1e-12)


def test_select_is_the_ball_of_those_images():
    x = torch.cat([photograph(i, 24) for i in (3, 4, 5)])
    ball = SSIMBall(x, floor=torch.tensor([0.9, 0.95, 0.99]), mean=0.999)
    delta = inside_range(x, 0.01 * direction(x.shape, 1))
    chosen = torch.tensor([2, 0])
    before = ball.select(chosen).scale(delta[chosen])
    torch.testing.assert_close(before, ball.scale(delta)[chosen], rtol=0, atol=0)
    torch.testing.assert_close(ball.select(chosen).scale(delta[chosen]), before, rtol=0, atol=0)


@pytest.mark.parametrize("levels", [{"floor": 0.9}, {"mean": 0.99}, {"floor": 0.9, "mean": 0.99}])
def test_what_is_known_of_a_ball_is_not_computed_again(levels, monkeypatch):
    """Its selections, conversions and expansions take the reference's statistics over."""
    x = torch.cat([photograph(i, 24) for i in (3, 4)]).float()
    ball, images = SSIMBall(x, **levels), torch.tensor([1])
    assert ball.ellipsoid is not None or ball.floor_sets is not None
    fresh = SSIMBall(x[1:], **levels)
    expected = [fresh.floor_sets, fresh.ellipsoid, fresh.reference_variance, fresh.double.reference_variance]
    monkeypatch.setattr("percep.ball.View.of", lambda *_: pytest.fail("computed once more"))
    for derived in (ball.select(images), ball.select(images).select(torch.tensor([True]))):
        found = [derived.floor_sets, derived.ellipsoid, derived.reference_variance, derived.double.reference_variance]
        for mine, other in zip(found, expected, strict=True):
            assert _same(mine, other)
    assert torch.equal(ball.expand(torch.zeros_like(x)).reference_mean, ball.reference_mean)


def test_a_ball_is_not_written_to():
    ball = SSIMBall(photograph(3, 24), floor=0.9)
    for made in (ball, ball.select(torch.tensor([0])), ball.expand(torch.zeros_like(ball.reference))):
        with pytest.raises(AttributeError):
            made.reference = ball.reference
    assert ball.num_windows == 3 * 24 * 24 and ball.map_shape == (1, 3, 24, 24)


def _same(mine: object, other: object) -> bool:
    if isinstance(mine, torch.Tensor) and isinstance(other, torch.Tensor):
        return bool(torch.allclose(mine, other, rtol=1e-6, atol=0))
    if is_dataclass(mine) and is_dataclass(other):
        return all(_same(getattr(mine, part.name), getattr(other, part.name)) for part in fields(mine))
    return mine is None and other is None


def test_one_bad_image_leaves_the_others_alone():
    x = torch.cat([photograph(3, 24), photograph(4, 24)])
    x[1, 0, 3, 3] = torch.nan
    ball = SSIMBall(x, floor=0.9, mean=0.99)
    assert ball.finite.tolist() == [True, False]
    delta = inside_range(x[:1], 0.01 * direction(x[:1].shape, 1)).expand(2, -1, -1, -1)
    factors = ball.scale(delta)
    assert factors[1] == 0 and factors[0] == SSIMBall(x[:1], floor=0.9, mean=0.99).scale(delta[:1])[0]
    assert ball.contains(x).tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "floor, a mean or both"),
        ({"floor": 1.2}, r"floor must lie in \(0, 1\)"),
        ({"mean": 0.0}, r"mean must lie in \(0, 1\)"),
        ({"floor": torch.tensor([0.9, 0.8, 0.7])}, "broadcast"),
        ({"floor": 0.9, "luminance_share": 1.0}, "luminance_share"),
    ],
)
def test_bad_levels_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        SSIMBall(photograph(3, 24), **arguments)


def test_bad_references_are_refused():
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        SSIMBall(photograph(3, 24) * 2, floor=0.9)
    with pytest.raises(InputError, match="floating-point"):
        SSIMBall(torch.zeros(3, 24, 24), floor=0.9)
    with pytest.raises(InputError, match="too small"):
        SSIMBall(torch.zeros(1, 3, 1, 1), floor=0.9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_what_computes_in_the_dtype_of_images_refuses_less_than_32_bits(dtype):
    """Answers of 16 bits were 0 and their gradients NaN; the certificate computes in float64, and takes them."""
    x = photograph(3, 24)
    coarse, ball = x.to(dtype), SSIMBall(x, floor=0.9)
    for refused in (
        lambda: SSIMBall(coarse, floor=0.9),
        lambda: SSIMBall(coarse, mean=0.99),
        lambda: SSIMBallLayer(floor=0.9)(coarse, torch.ones_like(x).to(dtype)),
        lambda: SSIMBallLayer(floor=0.9, mode="unrolled")(coarse, torch.ones_like(x).to(dtype)),
        lambda: ball.ssim_map(coarse),
    ):
        with pytest.raises(InputError, match=r"^(reference|images) must be .*: give \1\.float\(\)") as caught:
            refused()
        assert "\n" not in str(caught.value)
        assert dtype.itemsize == 1 or "float32 or float64" in str(caught.value)
    with pytest.raises(InputError, match=r"linear must match the reference, .*: give linear\.to\(reference\)"):
        Program(ball, torch.ones_like(x).to(dtype))
    if dtype.itemsize > 1:
        assert torch.equal(ball.scale(coarse), ball.scale(coarse.double()))
        found, wanted = certify(coarse, coarse.flip(3), 0.9), certify(coarse.double(), coarse.flip(3).double(), 0.9)
        assert torch.equal(found.min_ssim, wanted.min_ssim) and torch.equal(found.mean_ssim, wanted.mean_ssim)


@pytest.mark.parametrize("shape", [(3, 24, 24), (3, 1, 1), (24, 1)])
def test_a_map_of_levels_without_a_batch_is_that_of_every_image(shape):
    """Its first axis is that of the channels or rows, and no image is left out with it."""
    x = torch.cat([photograph(i, 24) for i in (3, 4, 5)])
    delta = 0.2 * random_like(x, 1)
    level = 0.9 + 0.05 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ball, whole = SSIMBall(x, floor=level), SSIMBall(x, floor=level.expand(3, 3, 24, 24).clone())
    chosen = torch.tensor([1])
    for mine, other, moved in ((ball, whole, delta), (ball.select(chosen), whole.select(chosen), delta[chosen])):
        assert torch.equal(mine.scale(moved), other.scale(moved))


def test_what_the_methods_take_is_checked():
    x = photograph(3, 24)
    ball = SSIMBall(x, floor=0.9)
    for method in (ball.scale, ball.boundary, ball.expand, ball.contains, ball.ssim_map):
        with pytest.raises(InputError, match=r"\(1, 3, 24, 24\)"):
            method(x[..., :23])
        with pytest.raises(InputError, match="got ndarray"):
            method(x.numpy())
    for method in (ball.contains, ball.ssim_map):
        with pytest.raises(InputError, match="divide images by 255"):
            method(255 * x)
    outside = x.clone()
    outside[0, 0, 0, 0] = 1.001
    assert ball.contains(outside).tolist() == [False]
    with pytest.raises(InputError, match=r"images\.clamp\(0, 1\)"):
        ball.ssim_map(outside)


def test_a_ball_made_under_inference_mode_serves_autograd():
    x = photograph(3, 24)
    with torch.inference_mode():
        ball = SSIMBall(x.clone(), floor=0.9)
    y = x.clone().requires_grad_()
    ball.ssim_map(y).mean().backward()
    assert y.grad is not None and bool(torch.isfinite(y.grad).all())
