"""Permutation tests with shared draws in two stages: exact cases, their resolution, and their rate under the null."""

import itertools

import numpy as np
import pytest
from scipy import stats

from percep.errors import InputError
from percep.explain import exchange_test, shift_test
from percep.explain.statistics.permutation import exchange_tests, shift_tests


def shifts(images: int, tests: int, seed: int, effect: float = 0.0) -> list[np.ndarray]:
    """Statistics under 5 x 5 shifts, noise, the observed ones greater by an effect."""
    values = np.random.default_rng(seed).standard_normal((tests, images, 5, 5))
    values[:, :, 0, 0] += effect
    return list(values)


def tables(images: int, tests: int, seed: int, effect: float = 0.0) -> list[np.ndarray]:
    values = np.random.default_rng(seed).standard_normal((tests, images, images))
    return list(values + effect * np.eye(images))


def test_shared_draws_give_what_each_test_gives_alone() -> None:
    several, holed = shifts(12, 3, 0, 0.4), shifts(12, 1, 1)[0]
    holed[4] = np.nan
    for one, test in zip([*several, holed], shift_tests([*several, holed], seed=3, draws=999), strict=True):
        alone = shift_test(one, seed=3, draws=999)
        assert (test.score, test.p_value) == pytest.approx((alone.score, alone.p_value))
        assert (test.images, test.undefined) == (alone.images, alone.undefined)
        np.testing.assert_array_equal(test.p_values, alone.p_values)
    pairs = tables(12, 3, 0, 0.5)
    pairs[2][5, 5] = np.nan
    for one, test in zip(pairs, exchange_tests(pairs, seed=3, draws=999), strict=True):
        assert vars(test) == pytest.approx(vars(exchange_test(one, seed=3, draws=999)))


def test_p_values_are_those_of_all_shifts_and_of_all_pairings() -> None:
    (shifted,), (table,) = shifts(3, 1, 5, 1.2), tables(5, 1, 5, 1.0)
    orbits = [(orbit - orbit.mean()) / orbit.std() for orbit in shifted.reshape(3, -1)]
    means = np.array([np.mean(chosen) for chosen in itertools.product(*orbits)])
    exact = (np.abs(means) >= abs(np.mean([orbit[0] for orbit in orbits])) - 1e-9).mean()
    assert exact < 0.1  # so the second stage has the last word
    (test,) = shift_tests([shifted], seed=0, draws=199, refined=40_000)
    assert test.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact / 40_000))
    own = np.diagonal(table).mean()
    all_pairs = [table[range(5), list(pairing)].mean() for pairing in itertools.permutations(range(5))]
    exact = np.mean(np.array(all_pairs) >= own - 1e-9)
    (pairing,) = exchange_tests([table], seed=0, alternative="greater", draws=199, refined=40_000)
    assert pairing.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact / 40_000))


def test_few_draws_as_extreme_are_followed_by_more() -> None:
    weak, strong = shifts(30, 1, 2)[0], shifts(30, 1, 3, 2.0)[0]
    found = shift_tests([weak, strong], seed=0, draws=999, refined=20_000)
    assert found[1].p_value == 1 / 20_001
    assert found[0].p_value == shift_test(weak, seed=0, draws=999).p_value > 0.1
    found = exchange_tests(tables(30, 1, 2) + tables(30, 1, 3, 2.0), 0, "greater", draws=999, refined=20_000)
    assert found[1].p_value == 1 / 20_001 and found[0].p_value > 0.1
    assert found[0].p_value * 1000 == pytest.approx(round(found[0].p_value * 1000))


def test_two_stages_keep_their_rate_under_the_null() -> None:
    by_shifts = [test.p_value for test in shift_tests(shifts(8, 400, 7), seed=1, draws=199, refined=1999)]
    by_pairs = [test.p_value for test in exchange_tests(tables(8, 400, 8), 1, "greater", 199, 1999)]
    for p_values in (np.array(by_shifts), np.array(by_pairs)):
        for level in (0.01, 0.05, 0.2):
            low, high = stats.binom.ppf((0.0005, 0.9995), 400, level)
            assert low <= (p_values <= level).sum() <= high


def test_what_is_no_table_of_statistics_is_refused() -> None:
    with pytest.raises(InputError, match="under all shifts"):
        shift_tests([np.zeros((2, 3))], seed=0)
    with pytest.raises(InputError, match="every pair"):
        exchange_tests([np.zeros((2, 3))], seed=0)
