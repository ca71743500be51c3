"""The null of toroidal shifts: what it computes, and how often it rejects maps that are unrelated."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from percep.errors import InputError
from percep.explain import (
    iou,
    iou_shifts,
    partial_spearman_shifts,
    pearson,
    pearson_shifts,
    pointing_game,
    pointing_game_shifts,
    relevance_mass,
    relevance_mass_shifts,
    shift_test,
    spearman,
    spearman_shifts,
)
from percep.explain.statistics.similarity import partial_residuals
from tests.support.smooth_fields import smooth_fields

PAIRS = [
    (pearson, pearson_shifts),
    (spearman, spearman_shifts),
    (partial(iou, share=0.2), partial(iou_shifts, share=0.2)),
    (partial(pointing_game, share=0.2), partial(pointing_game_shifts, share=0.2)),
    (partial(relevance_mass, share=0.2), partial(relevance_mass_shifts, share=0.2)),
]
SHIFTS = [pair[1] for pair in PAIRS]
# With 1000 images the count of rejections at 5% stays within these 99.9% of the time.
FEWEST, MOST = (int(bound) for bound in stats.binom.ppf((0.0005, 0.9995), 1000, 0.05))


def maps(ties: bool) -> tuple[Tensor, Tensor]:
    first, second = smooth_fields(3, 12, 1.5, 0)[:, :9].abs(), smooth_fields(3, 12, 1.5, 1)[:, :9]
    return (first.sub(0.9).clamp_min(0), second.clamp_min(1.2)) if ties else (first, second)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("statistic", "shifts"), PAIRS)
def test_every_shift_is_the_statistic_of_the_map_rolled(statistic, shifts, ties):
    first, second = maps(ties)
    found = shifts(first, second)
    assert found.shape == first.shape
    for place in ((0, 0), (0, 1), (5, 7), (8, 11)):
        expected = statistic(first.roll(place, (1, 2)), second).values
        np.testing.assert_allclose(found[:, *place], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scores", ["ranks", "normal"])
def test_a_partial_shift_takes_the_confounds_out_again(scores):
    first, second = maps(False)
    confounds = {"a": smooth_fields(3, 12, 2, 2)[:, :9], "b": smooth_fields(3, 12, 2, 3)[:, :9]}
    found = partial_spearman_shifts(first, second, confounds, scores)
    parts = partial_residuals(first, second, confounds, ("first", "second"), scores)
    for row, column in ((0, 0), (3, 4), (8, 1)):
        for image in range(3):
            moved = np.roll(parts.first[image].reshape(9, 12), (row, column), (0, 1)).ravel()
            design = np.column_stack([np.ones(108), parts.basis[image]])
            left = moved - design @ np.linalg.lstsq(design, moved, rcond=None)[0]
            expected = np.corrcoef(left, parts.second[image])[0, 1]
            assert found[image, row, column] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shifts", [*SHIFTS, lambda a, b: partial_spearman_shifts(a, b, {"c": a + b.flip(1)})])
def test_undefined_images_stay_undefined(shifts):
    first, second = maps(False)
    first[1] = 0
    found = shifts(first, second)
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()
    test = shift_test(found, seed=0, draws=99)
    assert (test.images, test.undefined) == (2, 1)
    for per_image in (test.scores, test.p_values, test.excess):
        assert np.isnan(per_image).tolist() == [False, True, False]


@pytest.mark.slow("a thousand random maps are tested")
@pytest.mark.parametrize("shifts", [pearson_shifts, spearman_shifts, partial(iou_shifts, share=0.2)])
@pytest.mark.parametrize("deviation", [1.5, 3.0])
def test_unrelated_smooth_maps_are_rejected_at_the_nominal_rate(shifts, deviation):
    first, second = smooth_fields(1000, 28, deviation, 0), smooth_fields(1000, 28, deviation, 1)
    values = shifts(first, second)
    assert FEWEST <= (shift_test(values, seed=0, draws=9).p_values <= 0.05).sum() <= MOST
    groups = np.array([shift_test(values[i : i + 5], seed=i, draws=199).p_value for i in range(0, 1000, 5)])
    low, high = stats.binom.ppf((0.0005, 0.9995), 200, 0.05)
    assert low <= (groups <= 0.05).sum() <= high
    assert stats.kstest(groups, "uniform").pvalue > 1e-3


def test_the_p_value_of_a_correlation_over_pixels_is_not_nominal():
    first, second = smooth_fields(200, 28, 1.5, 0), smooth_fields(200, 28, 1.5, 1)
    p_values = [stats.pearsonr(a.ravel(), b.ravel()).pvalue for a, b in zip(first, second, strict=True)]
    assert np.mean(np.array(p_values) <= 0.05) > 0.4


@pytest.mark.slow("a thousand random maps are tested")
def test_maps_that_are_not_periodic_are_rejected_little_more_often():
    first, second = (smooth_fields(1000, 28, 1.5, seed, periodic=False) for seed in (0, 1))
    rejected = (shift_test(spearman_shifts(first, second), seed=0, draws=9).p_values <= 0.05).mean()
    assert FEWEST / 1000 <= rejected <= 0.08


def test_a_planted_association_is_found_and_its_sign_kept():
    shared = smooth_fields(8, 28, 1.5, 0)
    first, second = (shared + smooth_fields(8, 28, 1.5, seed) for seed in (1, 2))
    test = shift_test(spearman_shifts(first, second), seed=0)
    assert test.p_value == pytest.approx(1e-4) and test.score > 3
    np.testing.assert_allclose(test.excess, spearman(first, second).values, atol=0.02)
    opposite = shift_test(spearman_shifts(first, -second), seed=0)
    assert opposite.score == pytest.approx(-test.score) and opposite.p_value == pytest.approx(1e-4)
    assert shift_test(spearman_shifts(first, -second), seed=0, alternative="greater").p_value > 0.99
    assert shift_test(spearman_shifts(first, -second), seed=0, alternative="less").p_value == pytest.approx(1e-4)


@pytest.mark.slow("a thousand random maps are tested")
def test_a_planted_confound_is_rejected_at_the_nominal_rate_once_it_is_taken_out():
    confound = smooth_fields(1000, 28, 1.5, 0)
    first, second = (confound + smooth_fields(1000, 28, 1.5, seed) for seed in (1, 2))
    plain = shift_test(spearman_shifts(first, second), seed=0, draws=9).p_values
    assert (plain <= 0.05).mean() > 0.9
    values = partial_spearman_shifts(first, second, {"confound": confound})
    assert FEWEST <= (shift_test(values, seed=0, draws=9).p_values <= 0.05).sum() <= MOST
    groups = np.array([shift_test(values[i : i + 5], seed=i, draws=199).p_value for i in range(0, 1000, 5)])
    assert (groups <= 0.05).sum() <= stats.binom.ppf(0.9995, 200, 0.05)


def test_p_values_count_the_shifts_that_are_as_extreme():
    values = np.zeros((2, 2, 3))
    values[0] = [[0.3, 0.1, -0.3], [0.5, 0.0, 0.0]]
    test = shift_test(values, seed=0, alternative="greater", draws=9999)
    assert test.p_values[0] == pytest.approx(2 / 6) and test.p_values[1] == 1
    assert test.scores[0] == pytest.approx((0.3 - 0.1) / values[0].std()) and test.scores[1] == 0
    # The second image adds nothing, so the group's p-value is the first image's.
    assert test.p_value == pytest.approx(2 / 6, abs=0.02)
    assert shift_test(values, seed=3).p_value == shift_test(values, seed=3).p_value


def test_nothing_defined_is_no_p_value():
    test = shift_test(np.full((3, 4, 4), np.nan), seed=0)
    assert np.isnan(test.p_value) and np.isnan(test.score) and (test.images, test.undefined) == (0, 3)
    with pytest.raises(InputError, match="under all shifts"):
        shift_test(np.zeros((3, 4)), seed=0)


def test_shifts_refuse_maps_of_different_shapes():
    for shifts in SHIFTS:
        with pytest.raises(InputError, match="one shape"):
            shifts(torch.rand(1, 4, 4), torch.rand(1, 4, 5))
