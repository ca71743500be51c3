"""Many one-dimensional roots at once, against closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from percep.solvers.roots import bracketed, least_multiplier


@settings(deadline=None)
@given(st.lists(st.integers(-999, 999), min_size=1, max_size=20), st.sampled_from([1, 3, 9]))
def test_odd_powers(thousandths, power):
    exact = torch.tensor(thousandths, dtype=torch.float64) / 1000
    low, high = bracketed(lambda x: (x - exact) ** power, -torch.ones_like(exact), torch.ones_like(exact))
    assert bool((low <= exact).all()) and bool((exact <= high).all())
    assert float((high - low).max()) <= 4 * torch.finfo(torch.float64).eps


def test_jumps_constants_and_roots_outside():
    low, high = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.where(x[0] > 1 / 3, 1.0, -2.0), x[1] + 1, x[2] - 2, torch.zeros_like(x[3])])

    first, last = bracketed(function, low, high)
    expected = torch.tensor([1 / 3, 0.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("guess", [1e-3, 1.0, 1e3])
def test_the_least_multiplier_is_found_from_any_positive_guess(guess):
    demand = torch.tensor([0.0, 0.5, 7.0, 400.0], dtype=torch.float64)
    # A quantity demand / (1 + multiplier) constrained to be at most 1.
    multiplier = least_multiplier(lambda m: 1 - (1 + m) / demand, torch.full_like(demand, guess))
    torch.testing.assert_close(multiplier, (demand - 1).clamp_min(0), rtol=1e-14, atol=1e-14)
    assert bool((demand / (1 + multiplier) <= 1 + 1e-15).all())
