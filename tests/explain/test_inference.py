"""Intervals and tests over images, against hand-computed values and simulations."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from percep.errors import InputError
from percep.explain import (
    across_images,
    bootstrap_interval,
    exchange_test,
    holm,
    paired_tests,
    rate_interval,
    shift_test,
)
from percep.explain import spearman as spearman_of
from percep.explain.statistics import inference, permutation
from tests.support.smooth_fields import smooth_fields


def test_the_bootstrap_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for draw in range(200):
        values = random.exponential(size=40)
        interval = bootstrap_interval(values, seed=draw, resamples=399)
        assert interval.method == "bca" and interval.low < interval.estimate < interval.high
        hits += interval.low <= 1 <= interval.high
    # BCa on 40 skewed values covers some 93%.
    low, high = stats.binom.ppf((0.001, 0.999), 200, 0.935) / 200
    assert low <= hits / 200 <= high


def test_an_interval_is_near_the_normal_one_where_that_is_right_and_repeats_under_a_seed():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    interval = bootstrap_interval(values, seed=5)
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)
    assert bootstrap_interval(values, seed=5) == interval
    assert bootstrap_interval(values, seed=np.random.default_rng(5)) == interval
    wide = bootstrap_interval(values, seed=5, level=0.99)
    assert wide.low < interval.low and interval.high < wide.high


def test_what_is_held_at_a_time_changes_no_result(monkeypatch):
    random = np.random.default_rng(0)
    values, shifted = random.standard_normal(30), random.standard_normal((30, 4, 5))
    interval, score = bootstrap_interval(values, 0), shift_test(shifted, 0)
    monkeypatch.setattr(inference, "_HELD", 700)
    monkeypatch.setattr(permutation, "_HELD", 700)
    assert bootstrap_interval(values, 0) == interval
    assert shift_test(shifted, 0).p_value == score.p_value


def test_undefined_images_are_counted_and_degenerate_ones_have_a_percentile_interval():
    interval = bootstrap_interval([0.5, 0.5, np.nan, 0.5], seed=0)
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert (interval.method, interval.images, interval.undefined) == ("percentile", 3, 1)
    single = bootstrap_interval([np.nan, 0.2], seed=0)
    assert (single.estimate, single.method, single.images, single.undefined) == (0.2, "none", 1, 1)
    assert np.isnan(single.low) and np.isnan(bootstrap_interval([np.nan], seed=0).estimate)


def test_a_rate_has_wilsons_interval_also_at_its_ends():
    hits = np.array([1.0] * 7 + [0] * 3 + [np.nan])
    interval = rate_interval(hits)
    p, n, z = 0.7, 10, stats.norm.ppf(0.975)
    centre, half = (p + z * z / (2 * n)), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert interval.low == pytest.approx((centre - half) / (1 + z * z / n))
    assert interval.high == pytest.approx((centre + half) / (1 + z * z / n))
    assert (interval.estimate, interval.images, interval.undefined) == (0.7, 10, 1)
    sure = rate_interval(np.ones(20))
    assert sure.high == pytest.approx(1) and sure.low == pytest.approx(proportion_confint(20, 20, method="wilson")[0])
    assert sure.low == pytest.approx(20 / (20 + z * z))


def test_holm_is_the_step_down_by_hand():
    p_values = [0.01, 0.04, np.nan, 0.03, 0.005]
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, then the running maximum.
    np.testing.assert_allclose(holm(p_values), [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9]), [1, 1])
    assert np.isnan(holm([np.nan])).all() and holm([]).shape == (0,)


def test_paired_tests_are_exact_and_count_what_they_leave_out():
    differences = np.array([1.0, -2, 3, 4, 5, 6, np.nan])
    other = np.arange(7.0)
    tests = paired_tests({"a": (other + differences, other), "b": (other, other), "c": ([np.nan] * 7, other)})
    # Of 64 sign patterns of the ranks 1..6 those with a rank sum of at most 2 on one side: {}, {1}, {2}.
    assert tests["a"].p_value == pytest.approx(2 * 3 / 64)
    assert tests["a"].effect == pytest.approx((21 - 2 - 2) / 21) and tests["a"].median == 3.5
    assert (tests["a"].pairs, tests["a"].zeros, tests["a"].undefined) == (6, 0, 1)
    assert (tests["b"].p_value, tests["b"].effect, tests["b"].zeros) == (1, 0, 7)
    assert np.isnan(tests["c"].p_value) and np.isnan(tests["c"].adjusted) and tests["c"].undefined == 7
    # Two tests have a p-value, so the smaller is doubled.
    assert tests["a"].adjusted == pytest.approx(2 * tests["a"].p_value) and tests["b"].adjusted == 1


def test_zeros_and_ties_are_ranked_by_pratt_with_all_sign_patterns():
    differences = np.array([0.0, 0, 1, 1, 2, -1, 3, 4])
    ranks = stats.rankdata(np.abs(differences))
    signs = np.array(list(itertools.product((0, 1), repeat=8)))
    sums = signs @ np.where(differences == 0, 0, ranks)
    observed = ranks[differences > 0].sum()
    expected = (sums >= observed - 1e-9).mean()
    test = paired_tests({"a": (differences, np.zeros(8))}, alternative="greater")["a"]
    assert test.p_value == pytest.approx(expected) and test.zeros == 2


@pytest.mark.slow("hundreds of random samples are tested")
def test_paired_tests_keep_their_rate_under_no_difference():
    random = np.random.default_rng(0)
    tests = paired_tests({str(k): (random.normal(size=20), random.normal(size=20)) for k in range(400)})
    low, high = stats.binom.ppf((0.0005, 0.9995), 400, 0.05)
    assert low <= sum(test.p_value <= 0.05 for test in tests.values()) <= high
    assert sum(test.adjusted <= 0.05 for test in tests.values()) <= 1


@pytest.mark.slow("hundreds of random samples are tested")
def test_an_exchange_of_centred_maps_keeps_its_rate_and_finds_what_is_an_images_own():
    rows = torch.arange(16) - 7.5
    centre = 2 * torch.exp(-(rows[:, None] ** 2 + rows**2) / 30)
    p_values = []
    for draw in range(150):
        first, second = (smooth_fields(6, 16, 1.5, 2 * draw + k, periodic=False) + centre for k in range(2))
        table = across_images(spearman_of, first, second)
        p_values.append(exchange_test(table, seed=draw, draws=199).p_value)
    assert table.mean() > 0.1
    low, high = stats.binom.ppf((0.0005, 0.9995), 150, 0.05)
    assert low <= np.sum(np.array(p_values) <= 0.05) <= high
    own = exchange_test(across_images(spearman_of, first + second, second), seed=0, alternative="greater")
    # Of the 720 pairings only the images' own is that good.
    assert own.own > own.other and own.p_value < 0.01


def test_an_exchange_averages_own_and_other_pairs_and_counts_the_undefined():
    table = np.array([[3.0, 0, 1], [1, 2, np.nan], [np.nan, np.nan, np.nan]])
    test = exchange_test(table, seed=0, alternative="greater")
    assert (test.own, test.other, test.images, test.undefined) == (2.5, 0.5, 2, 1)
    assert test.p_value == pytest.approx(0.5, abs=0.03)  # one of the two pairings
    lone = exchange_test(table[1:, 1:], seed=0)
    assert np.isnan(lone.p_value) and (lone.images, lone.undefined) == (1, 1)


def test_what_is_not_one_number_per_image_is_refused():
    with pytest.raises(InputError, match="one finite number per image"):
        bootstrap_interval([[1.0]], seed=0)
    with pytest.raises(InputError, match="one finite number per image"):
        bootstrap_interval([1.0, np.inf], seed=0)
    with pytest.raises(InputError, match="level"):
        bootstrap_interval([1.0, 2.0], seed=0, level=1.0)
    with pytest.raises(InputError, match="0 or 1"):
        rate_interval([0.5])
    with pytest.raises(InputError, match="one value per image"):
        paired_tests({"a": ([1.0], [1.0, 2.0])})
    with pytest.raises(InputError, match="at least one pair"):
        paired_tests({})
    with pytest.raises(InputError, match="every pair"):
        exchange_test(np.zeros((2, 3)), seed=0)
