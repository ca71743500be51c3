"""SSIM maps against kornia's and scikit-image's."""

import numpy as np
import pytest
import torch
from kornia.metrics import ssim as kornia_ssim
from skimage.metrics import structural_similarity

from percep import Window, certify
from percep.ssim import View, ssim_losses, ssim_map
from tests.support.references import KINDS, random_like, reference


def distorted(images: torch.Tensor, amount: float = 0.05) -> torch.Tensor:
    noise = torch.randn(images.shape, dtype=images.dtype, generator=torch.Generator().manual_seed(5))
    return (images + amount * noise).clamp(0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["reflect", "valid"])
def test_map_equals_kornia(kind, padding):
    x = reference(kind, 32, channels=3)
    y = distorted(x)
    expected = kornia_ssim(x, y, 11, eps=0.0, padding="same" if padding == "reflect" else "valid")
    torch.testing.assert_close(ssim_map(x, y, Window.gaussian(padding=padding)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gaussian", [True, False])
def test_map_equals_scikit_image_inside(kind, gaussian):
    x = reference(kind, 40)
    y = distorted(x)
    window = Window.gaussian() if gaussian else Window.uniform(7)
    options = {"gaussian_weights": True, "sigma": 1.5, "truncate": 3.5} if gaussian else {"win_size": 7}
    _, expected = structural_similarity(
        x[0, 0].numpy(), y[0, 0].numpy(), data_range=1.0, use_sample_covariance=False, full=True, **options
    )
    inside = slice(window.size // 2, -(window.size // 2))
    np.testing.assert_allclose(
        ssim_map(x, y, window)[0, 0, inside, inside].numpy(), expected[inside, inside], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_factors_have_their_textbook_form(kind):
    x = reference(kind, 32)
    y = distorted(x)
    window = Window.gaussian()
    mean_x, mean_y = window.mean(x), window.mean(y)
    cov = window.mean(x * y) - mean_x * mean_y
    var = window.mean(x * x) - mean_x**2 + window.mean(y * y) - mean_y**2
    luminance, contrast = ssim_losses(x, y, window)
    torch.testing.assert_close(1 - luminance, (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4))
    torch.testing.assert_close(1 - contrast, (2 * cov + 9e-4) / (var + 9e-4), rtol=0, atol=1e-10)


def test_small_losses_keep_their_digits_in_float32():
    x = reference("photograph", 48)
    y = x + 1e-5 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    exact = ssim_losses(x.float().double(), y.float().double(), Window.gaussian()).contrast
    single = ssim_losses(x.float(), y.float(), Window.gaussian()).contrast
    assert float(exact.max()) < 1e-6
    torch.testing.assert_close(single.double(), exact, rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    "window",
    [
        Window.gaussian(),
        Window.gaussian(padding="valid"),
        Window.uniform(8, stride=4, padding="valid"),
        Window.uniform(8),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_certificate_measures_the_same_map(window, kind):
    x = reference(kind, 33, channels=3)
    y = distorted(x)
    values = ssim_map(x, y, window)
    certificate = certify(x, y, window=window)
    torch.testing.assert_close(certificate.min_ssim[0], values.min(), rtol=0, atol=1e-9)
    torch.testing.assert_close(certificate.mean_ssim[0], values.mean(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("window", [Window.gaussian(), Window.uniform(8, stride=4, padding="valid")])
def test_moments_of_a_view_are_those_of_the_perturbation_itself(window):
    x = torch.cat([reference(kind, 20, channels=3) for kind in KINDS[:2]])
    d, k = 0.1 * random_like(x, 1), torch.tensor([0.1, 0.7], dtype=torch.float64).reshape(-1, 1, 1, 1)
    moments = View.of(window, x).moments(d)
    v = d - k * x
    torch.testing.assert_close(moments.mean_from(k), window.mean(v), rtol=0, atol=1e-12)
    torch.testing.assert_close(moments.variance_from(k), window.mean(v * v) - window.mean(v) ** 2, rtol=0, atol=1e-12)


def test_a_view_s_adjoint_and_coverage_are_those_of_its_mean():
    x = reference("photograph", 21, channels=2)
    view = View.of(Window.uniform(8, stride=5, padding="valid"), x)
    d, u = random_like(x, 1), random_like(view.reference_mean, 2)
    torch.testing.assert_close((view.adjoint(u) * d).sum(), (u * view.mean(d)).sum())
    torch.testing.assert_close((view.squared_adjoint(u) * d).sum(), (u * view.squared_mean(d)).sum())
    torch.testing.assert_close((view.coverage * d).sum(), view.mean(d).sum())
    # Windows of 8 at 0, 5 and 10 end before the last three of 21 pixels.
    assert bool((view.coverage[..., 18:, :] == 0).all() & (view.coverage[..., :18, :18] > 0).all())


def test_a_view_of_some_images_is_the_view_selected():
    x = torch.cat([reference(kind, 20) for kind in KINDS[:3]])
    images, window = torch.tensor([2, 0]), Window.gaussian()
    y = distorted(x)
    found, alone = View.of(window, x).select(images), View.of(window, x[images])
    for mine, other in zip(found.losses(y[images]), alone.losses(y[images]), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-14)


def test_variances_are_never_negative():
    """Where rounding leaves a difference of moments below 0: of what is constant in every window."""
    window, k = Window.gaussian(), torch.tensor(0.3).reshape(1, 1, 1, 1)
    x = reference("photograph", 24, channels=3).float()
    view, constant = View.of(window, x), torch.full_like(x, 0.3)
    assert bool((window.mean(constant * constant) - window.mean(constant) ** 2 < 0).any())
    assert bool((view.moments(constant).variance >= 0).all())
    assert bool((View.of(window, constant).reference_variance >= 0).all())
    moments = view.moments(k * x)
    difference = moments.variance - 2 * k * moments.covariance + k * k * view.reference_variance
    assert bool((difference < 0).any()) and bool((moments.variance_from(k) >= 0).all())
