"""Holm's correction over every table of a study."""

from dataclasses import replace

import numpy as np
import pytest

from percep.explain import holm
from percep.study import AssociationRow, ComparisonRow, StratumRow
from percep.study.family import Family

ASSOCIATION = AssociationRow("main", "a", "b", "pearson", None, 0.5, 0.4, 0.6, 9, 0, 0.0, 1.0, 0.01, 0.1, 0.002)
COMPARISON = ComparisonRow("q", "a", "b", 1.0, 0.5, 0.5, 0.4, 0.6, 0.9, 0.003, 0.006, 9, 0)
STRATUM = StratumRow("confidence", "low", 0.5, 0.1, 0.0, 0.2, 9, 0, 0, 0.1, 0.04, np.nan)


def test_every_test_is_of_one_family() -> None:
    control = replace(ASSOCIATION, shift_p=None, exchange_p=None)
    undefined = replace(COMPARISON, p_value=np.nan)
    strata = [STRATUM, replace(STRATUM, group="high")]
    found = Family([ASSOCIATION, control], [COMPARISON, undefined], strata).adjusted()
    # Four tests: 0.002, 0.003, 0.01 and 0.04 times 4, 3, 2 and 1, then the running maximum.
    assert found.associations[0].exchange_adjusted == pytest.approx(0.008)
    assert found.comparisons[0].adjusted == pytest.approx(0.009)
    assert found.associations[0].shift_adjusted == pytest.approx(0.02)
    assert [row.adjusted for row in found.strata] == pytest.approx([0.04, 0.04])
    assert found.associations[1] == control and np.isnan(found.comparisons[1].adjusted)
    assert found.associations[0].shift_p == 0.01 and [row.group for row in found.strata] == ["low", "high"]


def test_a_family_of_nothing_true_rejects_at_most_at_its_level() -> None:
    random = np.random.default_rng(0)
    rejected = []
    for _ in range(300):
        p_values = random.random((20, 3))
        rows = [replace(ASSOCIATION, shift_p=p[0], exchange_p=p[1]) for p in p_values]
        compared = [replace(COMPARISON, p_value=p[2]) for p in p_values]
        found = Family(rows, compared, []).adjusted()
        values = [
            *(row.shift_adjusted for row in found.associations),
            *(row.exchange_adjusted for row in found.associations),
            *(row.adjusted for row in found.comparisons),
        ]
        np.testing.assert_allclose(values, holm(p_values.T.ravel()))
        rejected.append(min(values) <= 0.05)
    assert 4 <= sum(rejected) <= 29  # a binomial of 0.05 in all but one of 1,000
