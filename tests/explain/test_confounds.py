"""The maps that confound: closed forms on ramps, steps and grids."""

import math

import pytest
import torch

from percep.errors import InputError
from percep.explain import (
    centred_gaussian,
    confound_maps,
    distance_from_centre,
    edge_strength,
    local_standard_deviation,
)


def test_edge_strength_of_a_ramp_is_its_slope_in_any_direction():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    images = torch.stack([0.01 * columns, 0.003 * rows + 0.004 * columns, torch.full((40, 50), 0.5)])[None]
    edges = edge_strength(images)
    assert edges.shape == (1, 40, 50) and edges.dtype == torch.float64
    expected = torch.full((26, 36), (0.01 + 0.005 + 0) / 3, dtype=torch.float64)
    torch.testing.assert_close(edges[0, 7:-7, 7:-7], expected, rtol=1e-5, atol=0)


def test_edge_strength_of_a_step_is_that_of_the_windows_gaussian():
    images = torch.zeros(1, 1, 30, 30)
    images[..., 15:] = 1
    edges = edge_strength(images)[0, 15]
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / 4.5)
    taps /= taps.sum()
    # A centred difference over two pixels spans the two middle taps at the step.
    assert float(edges.max()) == pytest.approx(float(taps[5] + taps[4]) / 2, rel=1e-6)
    assert float(edges.max()) == pytest.approx(0.24, abs=0.005)
    assert float(edges[:8].max()) == pytest.approx(0, abs=1e-12)


def test_distance_is_from_the_middle_over_half_the_diagonal():
    distance = distance_from_centre(3, 4)
    assert float(distance[1, 1]) == float(distance[1, 2]) == pytest.approx(0.5 / 2.5)
    assert float(distance[0, 0]) == pytest.approx(math.hypot(1, 1.5) / 2.5)
    torch.testing.assert_close(distance, distance.flip(0, 1))
    assert float(distance_from_centre(224, 224).max()) < 1


def test_the_centred_gaussian_is_separable_with_the_sigma_asked_for():
    gaussian = centred_gaussian(41, 21, sigma=0.2)
    assert float(gaussian[20, 10]) == 1
    assert float(gaussian[20, 10 + 4]) == pytest.approx(math.exp(-((4 / 4.2) ** 2) / 2))
    torch.testing.assert_close(gaussian, torch.outer(gaussian[:, 10], gaussian[20]))
    with pytest.raises(InputError, match="sigma"):
        centred_gaussian(4, 4, sigma=0)


def test_the_confounds_of_a_batch_have_names_and_one_shape():
    images = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    maps = confound_maps(images)
    assert list(maps) == ["local_standard_deviation", "edge_strength", "distance_from_centre"]
    assert {tuple(confound.shape) for confound in maps.values()} == {(2, 20, 24)}
    torch.testing.assert_close(maps["local_standard_deviation"], local_standard_deviation(images))
    torch.testing.assert_close(maps["distance_from_centre"][1], distance_from_centre(20, 24))
