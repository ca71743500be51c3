"""The window's operators: adjoint identities, closed forms, and agreement of the two ways they are computed."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from percep import Window
from percep.errors import InputError

WINDOWS = st.builds(
    lambda gaussian, size, stride, padding: (
        Window.gaussian(size, 1.5, min(stride, size), padding)
        if gaussian
        else Window.uniform(size, min(stride, size), padding)
    ),
    st.booleans(),
    st.integers(1, 11),
    st.integers(1, 11),
    st.sampled_from(["reflect", "valid"]),
)
# Sides on both sides of the switch from dense matrices to shifted sums.
SIDES = st.one_of(st.integers(11, 40), st.integers(95, 130))


def relative(difference: torch.Tensor, scale: torch.Tensor) -> float:
    return float(difference.abs() / scale.abs().clamp_min(1e-300))


@pytest.mark.slow("many random windows and images")
@settings(max_examples=80, deadline=None)
@given(WINDOWS, SIDES, SIDES, st.integers(0, 2**31), st.booleans())
def test_adjoint_identity(window, height, width, seed, squared):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator)
    maps = torch.randn(2, 3, *window.grid(height, width), dtype=torch.float64, generator=generator)
    forward, backward = (window.squared_mean, window.squared_adjoint) if squared else (window.mean, window.adjoint)
    left, right = (forward(images) * maps).sum(), (images * backward(maps, height, width)).sum()
    scale = (forward(images.abs()) * maps.abs()).sum()
    assert relative(left - right, scale) < 1e-12


@settings(max_examples=40, deadline=None)
@given(WINDOWS, st.integers(11, 40), st.integers(0, 2**31))
def test_mean_is_the_weighted_sum_of_mirrored_pixels(window, side, seed):
    image = torch.randn(side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    mapped = window.mean(image)
    offset = (window.size - 1) // 2 if window.padding == "reflect" else 0

    def mirrored(position: int) -> int:
        position = abs(position)
        return 2 * (side - 1) - position if position >= side else position

    for row, column in ((0, 0), (mapped.shape[0] - 1, mapped.shape[1] // 2)):
        expected = sum(
            window.taps[i]
            * window.taps[j]
            * image[mirrored(row * window.stride - offset + i), mirrored(column * window.stride - offset + j)]
            for i in range(window.size)
            for j in range(window.size)
        )
        assert abs(float(mapped[row, column] - expected)) < 1e-12


@pytest.mark.parametrize("padding", ["reflect", "valid"])
@pytest.mark.parametrize("stride", [1, 3])
def test_dense_and_shifted_passes_agree(monkeypatch, padding, stride):
    window = Window.gaussian(stride=stride, padding=padding)
    images = torch.randn(2, 3, 40, 57, dtype=torch.float64)
    maps = torch.randn(2, 3, *window.grid(40, 57), dtype=torch.float64)
    dense = window.mean(images), window.adjoint(maps, 40, 57)
    monkeypatch.setattr("percep.windows._DENSE_SIDE", 0)
    monkeypatch.setattr("percep.windows._CACHED_PLANE", 0)
    torch.testing.assert_close(window.mean(images), dense[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(window.adjoint(maps, 40, 57), dense[1], rtol=0, atol=1e-14)


def test_what_is_not_finite_stays_in_its_image():
    window = Window.gaussian()
    images = torch.rand(3, 2, 100, 120)
    images[1] = torch.nan
    mapped, spread = window.mean(images), window.adjoint(images, 100, 120)
    for result in (mapped, spread):
        assert bool(result[0].isfinite().all()) and bool(result[2].isfinite().all()) and bool(result[1].isnan().all())
    assert window.mean(images[:0]).shape == window.adjoint(images[:0], 100, 120).shape == (0, 2, 100, 120)


def test_constants_keep_their_mean_and_coverage_counts_windows():
    assert torch.allclose(Window.gaussian().mean(torch.full((1, 1, 20, 20), 0.3)), torch.tensor(0.3))
    tiles = Window.uniform(4, stride=4, padding="valid")
    torch.testing.assert_close(tiles.adjoint(torch.ones(2, 2), 9, 8)[:8], torch.full((8, 8), 1 / 16))
    assert not tiles.adjoint(torch.ones(2, 2), 9, 8)[8:].any()


def test_what_cannot_be_a_window_is_refused():
    with pytest.raises(InputError, match="stride"):
        Window.uniform(4, stride=5)
    with pytest.raises(InputError, match="padding"):
        Window.gaussian(padding="same")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="too small"):
        Window.gaussian().mean(torch.zeros(1, 1, 5, 40))
    with pytest.raises(InputError, match="windows"):
        Window.gaussian().adjoint(torch.zeros(1, 1, 5, 5), 40, 40)
