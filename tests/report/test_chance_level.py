"""When a network is said to do no better than guessing, against exact binomial sums."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percep.report.common.chance_level import at_chance


def _at_least(correct: int, labelled: int, p: Fraction) -> Fraction:
    return sum((comb(labelled, k) * p**k * (1 - p) ** (labelled - k) for k in range(correct, labelled + 1)), Fraction())


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 1000))
def test_both_tests_are_exact(a: int, b: int, classes: int) -> None:
    correct, labelled = min(a, b), max(a, b)
    guessing = Fraction(1, classes)
    at_least = _at_least(correct, labelled, guessing)
    at_most = 1 - _at_least(correct + 1, labelled, (1 + guessing) / 2)
    assert at_chance(correct, labelled, classes) == (at_least > Fraction(1, 100) and at_most <= Fraction(1, 100))


@pytest.mark.parametrize(
    ("correct", "labelled", "classes", "expected"),
    [
        (0, 20, 1000, True),
        (1, 20, 1000, True),  # one of twenty thousandths: 2% by guessing
        (2, 20, 1000, False),
        (0, 6, 1000, False),  # too few to say so
        (0, 7, 1000, True),
        (50, 50_000, 1000, True),
        (100, 50_000, 1000, False),
        (9, 10, 2, False),  # guessing is not rejected, but neither is a network that works
        (5, 10, 2, False),
        (10, 20, 2, False),
        (11, 22, 2, True),
        (2, 25, 10, True),
        (15, 25, 10, False),
        (0, 0, 10, False),
        (3, 3, 1, False),
    ],
)
def test_where_it_is_said(correct: int, labelled: int, classes: int, expected: bool) -> None:
    assert at_chance(correct, labelled, classes) is expected


def test_more_right_answers_never_make_it_chance() -> None:
    said = [at_chance(correct, 40, 10) for correct in range(41)]
    assert said == sorted(said, reverse=True) and said[0] and not said[-1]
