"""SSIM maps against kornia's and scikit-image's."""

import numpy as np
import pytest
import torch
from kornia.metrics import ssim as kornia_ssim
from skimage.metrics import structural_similarity

from percep import Window, certify
from percep.ssim import ssim_losses, ssim_map
from tests.support.references import KINDS, reference


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
