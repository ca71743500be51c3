"""Associations of two maps against closed forms, and planted ones: found where they are, gone where they are not."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from percep.errors import InputError
from percep.explain import (
    across_images,
    block_means,
    iou,
    partial_spearman,
    pearson,
    pointing_game,
    relevance_mass,
    spearman,
)
from percep.explain.statistics.similarity import top_membership
from tests.support.smooth_fields import smooth_fields

OVERLAPS = (iou, pointing_game, relevance_mass)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_correlations_are_scipys_on_every_image_ties_included():
    first, second = noise(5, 12, 17), (2 * noise(5, 12, 17, seed=1)).round()
    for statistic, reference in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        found = statistic(first, second)
        expected = [reference(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-12)
        assert found.defined.all()


def test_partial_spearman_is_the_recursion_of_rank_correlations():
    a, b, c, d = (noise(4, 15, 14, seed=seed) for seed in range(4))
    first, second = (a + c + 0.5 * d).exp(), b - 2 * c + d

    def r(x: Tensor, y: Tensor) -> np.ndarray:
        return np.array([stats.spearmanr(u.ravel(), v.ravel()).statistic for u, v in zip(x, y, strict=True)])

    def partial(xy: np.ndarray, xz: np.ndarray, yz: np.ndarray) -> np.ndarray:
        return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))

    one = partial(r(first, second), r(first, c), r(second, c))
    np.testing.assert_allclose(partial_spearman(first, second, {"c": c}).values, one, rtol=0, atol=1e-12)
    both = partial(
        one,
        partial(r(first, d), r(first, c), r(d, c)),
        partial(r(second, d), r(second, c), r(d, c)),
    )
    found = partial_spearman(first, second, {"c": c, "d": d})
    np.testing.assert_allclose(found.values, both, rtol=0, atol=1e-12)


def test_partial_correlation_is_an_entry_of_the_inverse_covariance():
    maps = torch.stack([noise(1, 20, 20, seed=seed)[0] for seed in range(5)])
    mixed = torch.einsum("ij,jhw->ihw", noise(5, 5, seed=9), maps)
    for scores, transform in (
        ("ranks", lambda ranked: ranked),
        ("normal", lambda ranked: stats.norm.ppf((ranked - 0.5) / ranked.shape[1])),
    ):
        rows = transform(stats.rankdata(mixed.reshape(5, -1).numpy(), axis=1))
        precision = np.linalg.inv(np.cov(rows))
        expected = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
        confounds = {str(k): mixed[k : k + 1] for k in (2, 3, 4)}
        found = partial_spearman(mixed[:1], mixed[1:2], confounds, scores=scores)
        assert found.values[0] == pytest.approx(expected, abs=1e-10)


def test_a_planted_association_is_found_through_confounds():
    shared, confound = smooth_fields(20, 40, 1.5, 0), smooth_fields(20, 40, 1.5, 1)
    first = shared + confound + smooth_fields(20, 40, 1.5, 2)
    second = (shared + confound + smooth_fields(20, 40, 1.5, 3)).exp()
    # Given the confound, the shared field is half of what is left of each: a correlation of 1/2, in ranks 0.483.
    found = partial_spearman(first, second, {"confound": confound})
    assert found.values.mean() == pytest.approx(6 / math.pi * math.asin(0.25), abs=0.04)


def test_a_planted_confound_vanishes_under_the_partial_statistic_only():
    confound = smooth_fields(400, 28, 1.5, 0, periodic=False)
    first, second = (confound + smooth_fields(400, 28, 1.5, seed, periodic=False) for seed in (1, 2))
    assert spearman(first, second).values.mean() > 0.4
    ranked = partial_spearman(first, second.exp(), {"confound": confound}).values
    # What ranks of normal values leave: (r - s^2) / (1 - s^2) with r and s of normal correlations 1/2 and 1/sqrt(2).
    r, s = (6 / math.pi * math.asin(value / 2) for value in (0.5, math.sqrt(0.5)))
    error = 4 * ranked.std() / 20
    assert ranked.mean() == pytest.approx((r - s * s) / (1 - s * s), abs=error) and error < 0.03
    normal = partial_spearman(first, second.exp(), {"confound": confound}, scores="normal").values
    assert normal.mean() == pytest.approx(0, abs=error)


def test_a_confound_that_adds_nothing_changes_nothing():
    first, second, confound = (noise(3, 10, 11, seed=seed) for seed in range(3))
    once = partial_spearman(first, second, {"a": confound}).values
    again = partial_spearman(
        first, second, {"a": confound, "b": 2 * confound, "flat": torch.ones(10, 11, dtype=torch.float64)}
    )
    np.testing.assert_allclose(again.values, once, rtol=0, atol=1e-10)
    only_flat = partial_spearman(first, second, {"flat": torch.ones(10, 11, dtype=torch.float64)})
    np.testing.assert_allclose(only_flat.values, spearman(first, second).values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_overlaps_of_identical_disjoint_and_half_overlapping_tops(share):
    ramp = torch.arange(200, dtype=torch.float64).reshape(1, 10, 20)
    count = round(200 * share)
    shifted = ramp.flatten().roll(count // 2).reshape(1, 10, 20)
    assert iou(ramp, ramp, share).values[0] == 1
    assert iou(ramp, -ramp, share).values[0] == 0
    assert iou(ramp, shifted, share).values[0] == pytest.approx((count / 2) / (1.5 * count))
    assert pointing_game(ramp, ramp, share).values[0] == 1
    assert pointing_game(ramp, -ramp, share).values[0] == 0
    top_sum = sum(range(200 - count, 200)) / sum(range(200))
    assert relevance_mass(ramp, ramp, share).values[0] == pytest.approx(top_sum)


def test_overlaps_ignore_scale_and_match_areas_through_ties():
    sparse = torch.zeros(1, 10, 10, dtype=torch.float64)
    sparse[0, 0, :5] = torch.arange(5, 0, -1)
    membership = top_membership(sparse.reshape(1, -1).numpy(), 0.2)
    assert membership.sum() == pytest.approx(20)
    np.testing.assert_allclose(membership[0, 5:], 15 / 95)
    assert iou(sparse, 7 * sparse.exp(), 0.2).values[0] == pytest.approx(1)
    elsewhere = sparse.flip(1)
    overlap = 10 * 15 / 95 + 90 * 15 / 95
    assert iou(sparse, elsewhere, 0.2).values[0] == pytest.approx(overlap / (40 - overlap))
    twice = sparse.clone()
    twice[0, 9, 9] = 5
    assert pointing_game(twice, sparse, 0.05).values[0] == pytest.approx(0.5)


def test_overlaps_of_independent_maps_have_the_means_stated():
    first, second = noise(3000, 10, 10), noise(3000, 10, 10, seed=1)
    assert pointing_game(first, second, 0.2).values.mean() == pytest.approx(0.2, abs=0.03)
    assert relevance_mass(first.exp(), second, 0.2).values.mean() == pytest.approx(0.2, abs=0.01)
    assert iou(first, second, 0.2).values.mean() == pytest.approx(0.2 / 1.8, abs=0.01)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda maps: maps * 0, "cam is constant"),
        (lambda maps: maps * 0 + 0.3, "cam is constant"),
        (lambda maps: maps * torch.nan, "cam is not finite"),
        (lambda maps: maps / 0, "cam is not finite"),
    ],
)
def test_undefined_values_are_kept_with_their_reasons(change, reason):
    first = noise(3, 9, 9).square()
    first[1] = change(first[1])
    second, names = noise(3, 9, 9, seed=1), ("cam", "loss")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [
            pearson(first, second, names),
            spearman(second, first, names[::-1]),
            partial_spearman(first, second, {"texture": noise(3, 9, 9, seed=2)}, names),
            iou(first, second, 0.2, names),
            pointing_game(first, second, 0.2, names),
        ]
    for found in results:
        assert found.undefined == (None, reason, None)
        assert np.isnan(found.values).tolist() == [False, True, False] and len(found.values) == 3


def test_partial_correlation_says_what_makes_it_undefined():
    first, second, confound = (noise(2, 4, 4, seed=seed) for seed in range(3))
    confound[0, 0, 0] = torch.nan
    found = partial_spearman(first, second, {"texture": confound})
    assert found.undefined == ("confound texture is not finite", None)
    found = partial_spearman(first, second, {"texture": second.exp()}, ("cam", "loss"))
    assert found.undefined == ("loss is determined by the confounds",) * 2
    many = {str(seed): noise(2, 2, 2, seed=seed) for seed in range(2, 5)}
    found = partial_spearman(first[:, :2, :2], second[:, :2, :2], many)
    assert found.undefined == ("4 values do not allow for 3 confounds",) * 2


def test_mass_is_of_maps_that_are_at_least_0():
    first = torch.ones(4, 5, 5, dtype=torch.float64)
    first[1] = 0
    first[2, 0, 0] = -1
    first[3, 0, 0] = torch.nan
    found = relevance_mass(first, noise(4, 5, 5), 0.2, ("cam", "loss"))
    assert found.undefined == (None, "cam is zero", "cam has negative values", "cam is not finite")
    assert found.values[0] == pytest.approx(0.2)


def test_block_means_weigh_pixels_alike_inside_a_block_and_leave_none_out():
    maps = noise(2, 10, 13)
    means = block_means(maps, 4)
    assert means.shape == (2, 3, 4) and means.dtype == torch.float64
    for row, column in itertools.product(range(3), range(4)):
        block = maps[1, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert float(means[1, row, column]) == pytest.approx(float(block.mean()), abs=1e-12)
    assert torch.equal(block_means(maps, 1), maps)


def test_a_table_holds_every_pair_of_images():
    first, second = noise(4, 6, 6), noise(4, 6, 6, seed=1)
    first[2] = 0
    table = across_images(spearman, first, second)
    for i, j in itertools.product(range(4), range(4)):
        expected = spearman(first[i : i + 1], second[j : j + 1]).values[0]
        assert table[i, j] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="one shape"):
        pearson(noise(1, 4, 4), noise(1, 4, 5))
    with pytest.raises(InputError, match="one shape"):
        partial_spearman(noise(1, 4, 4), noise(1, 4, 4), {"texture": noise(1, 4, 5)})
    with pytest.raises(InputError, match="at least one confound"):
        partial_spearman(noise(1, 4, 4), noise(1, 4, 4), {})
    for statistic in OVERLAPS:
        with pytest.raises(InputError, match=r"share must lie in \(0, 1\)"):
            statistic(noise(1, 4, 4), noise(1, 4, 4), 1.0)
    with pytest.raises(InputError, match="block means"):
        block_means(noise(1, 4, 4), 0)
