"""Whatever autocast surrounds a call: percep computes in the dtype it was given, the user's model runs as asked."""

import pytest
import torch

from percep.precision import product, without_autocast


def test_a_product_keeps_its_dtype_and_the_state_comes_back_after_an_error() -> None:
    values = torch.rand(3, 3)
    expected = values @ values
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(product(values, values), expected)
            with without_autocast(values.device):
                assert torch.equal(values @ values, expected)
            with pytest.raises(ZeroDivisionError), without_autocast(values.device):
                raise ZeroDivisionError
            assert (values @ values).dtype == dtype
    with without_autocast(values.device):
        assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(product(values, values), expected)
