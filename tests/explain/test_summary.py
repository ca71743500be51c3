"""The maps that are compared, and their associations on maps with a known answer."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from percep import Window
from percep.errors import InputError
from percep.explain import allocation_maps, associations, local_standard_deviation, ssim_maps
from percep.ssim import ssim_map


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uncorrelated(count: int) -> Tensor:
    """`(count, 1, 20, 30)` maps of mean 0 and norm 1 whose Pearson correlations are exactly 0."""
    maps = noise(600, count)
    maps = torch.linalg.qr(maps - maps.mean(0)).Q
    return maps.T.reshape(count, 1, 20, 30)


def test_planted_associations_are_found():
    u, v, w = uncorrelated(3)
    found = associations(1e-6 * (0.6 * u + 0.8 * v) + 1e-5, 3 * u + 7, w)[0]
    assert found.dissimilarity_gradcam.pearson == pytest.approx(0.6, abs=1e-9)
    assert found.dissimilarity_texture.pearson == pytest.approx(0, abs=1e-9)
    assert found.gradcam_texture.pearson == pytest.approx(0, abs=1e-9)
    assert found.dissimilarity_gradcam.undefined is None


def test_ranks_see_through_a_monotone_curve_and_signs_are_kept():
    maps = noise(1, 20, 30)
    found = associations(maps.exp(), maps, -maps)[0]
    assert found.dissimilarity_gradcam.spearman == pytest.approx(1)
    assert 0.5 < found.dissimilarity_gradcam.pearson < 0.95
    assert found.dissimilarity_texture.spearman == pytest.approx(-1)
    assert found.gradcam_texture.pearson == pytest.approx(-1)


def test_independent_maps_are_hardly_associated():
    found = associations(noise(4, 50, 50, seed=1), noise(4, 50, 50, seed=2), noise(4, 50, 50, seed=3))
    assert len(found) == 4
    for image in found:
        # Four standard errors of a correlation over 2500 independent pixels.
        assert abs(image.dissimilarity_gradcam.pearson) < 0.08
        assert abs(image.dissimilarity_gradcam.spearman) < 0.08


@pytest.mark.parametrize(
    ("gradcam", "reason"),
    [
        (torch.zeros(1, 20, 30), "gradcam is constant"),
        (torch.full((1, 20, 30), 0.1), "gradcam is constant"),
        (1 + 1e-15 * noise(1, 20, 30), "gradcam is constant"),
        (torch.full((1, 20, 30), torch.nan), "gradcam is not finite"),
    ],
)
def test_an_undefined_association_says_why_without_a_warning(gradcam, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = associations(noise(1, 20, 30), gradcam, noise(1, 20, 30, seed=1))[0]
    for association in (found.dissimilarity_gradcam, found.gradcam_texture):
        assert association.undefined == reason
        assert math.isnan(association.pearson) and math.isnan(association.spearman)
    assert found.dissimilarity_texture.undefined is None


def test_maps_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="one shape"):
        associations(torch.rand(1, 4, 4), torch.rand(1, 4, 5), torch.rand(1, 4, 4))


def test_local_standard_deviation_is_the_weighted_one_of_the_window():
    images = noise(2, 3, 24, 26).sigmoid()
    texture = local_standard_deviation(images)
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / 4.5)
    weights = torch.outer(taps, taps) / taps.sum() ** 2
    patch = images[1, :, 6:17, 8:19]
    mean = (weights * patch).sum((1, 2), keepdim=True)
    deviation = (weights * (patch - mean) ** 2).sum((1, 2)).sqrt()
    assert texture.shape == (2, 24, 26) and texture.dtype == torch.float64
    assert float(texture[1, 11, 13]) == pytest.approx(float(deviation.mean()), rel=1e-12)
    assert float(local_standard_deviation(torch.full((1, 3, 20, 20), 0.7)).max()) < 1e-7


def test_ssim_maps_agree_with_our_own_on_photographic_and_black_patches():
    reference = noise(2, 3, 30, 28).sigmoid()
    reference[0, :, :15] = 0
    images = (reference + 0.01 * noise(2, 3, 30, 28, seed=1)).clamp(0, 1)
    torch.testing.assert_close(
        ssim_maps(reference, images), ssim_map(reference, images, Window.gaussian()), rtol=0, atol=1e-10
    )
    torch.testing.assert_close(ssim_maps(reference, reference), torch.ones_like(reference), rtol=0, atol=1e-12)


def test_ssim_maps_refuse_what_cannot_be_compared():
    with pytest.raises(InputError, match="one shape"):
        ssim_maps(torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 21))
    with pytest.raises(InputError, match="at least 6 pixels, got 5x20"):
        ssim_maps(torch.rand(1, 3, 5, 20), torch.rand(1, 3, 5, 20))


def test_allocation_is_in_multiples_of_the_uniform_share():
    spending = torch.zeros(3, 2, 4, 5)
    spending[0] = 0.3
    spending[1, 0, 2, 1] = 1e-9
    maps = allocation_maps(spending, (4, 5))
    assert maps.shape == (3, 4, 5)
    torch.testing.assert_close(maps[0], torch.ones(4, 5, dtype=torch.float64))
    assert float(maps[1, 2, 1]) == pytest.approx(20) and float(maps[1].sum()) == pytest.approx(20)
    assert torch.equal(maps[2], torch.zeros(4, 5, dtype=torch.float64))


def test_allocation_of_strided_windows_has_the_size_of_the_image_and_mean_1():
    spending = noise(2, 3, 5, 6) ** 2
    maps = allocation_maps(spending, (20, 24))
    assert maps.shape == (2, 20, 24)
    torch.testing.assert_close(maps.mean((1, 2)), torch.ones(2, dtype=torch.float64))
    column = spending[0].sum(0)
    row, place = divmod(int(column.argmax()), 6)
    peak_row, peak_place = divmod(int(maps[0].argmax()), 24)
    assert (peak_row // 4, peak_place // 4) == (row, place)
