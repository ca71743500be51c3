"""Whatever autocast surrounds a call: percep computes in the dtype it was given, the user's model runs as asked."""

import pytest
import torch
from torch import nn

from percep.precision import product, under_current_autocast, without_autocast


def states() -> tuple[bool, torch.dtype, bool]:
    return torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()


def test_a_product_inside_keeps_its_dtype_and_the_state_comes_back_after_an_error() -> None:
    values = torch.rand(3, 3)
    with torch.autocast("cpu", dtype=torch.float16):
        before = states()
        with without_autocast():
            assert (values @ values).dtype == torch.float32
        with pytest.raises(ZeroDivisionError), without_autocast():
            raise ZeroDivisionError
        assert states() == before
        assert (values @ values).dtype == torch.float16


def test_the_decorator_works_at_every_call() -> None:
    decorated = without_autocast()(torch.matmul)
    values = torch.rand(3, 3)
    assert decorated(values, values).dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert decorated(values, values).dtype == torch.float32
            assert product(values, values).dtype == torch.float32


def test_a_model_runs_under_the_autocast_it_was_given_in() -> None:
    values = torch.rand(3, 3)
    with torch.autocast("cpu", dtype=torch.float16, cache_enabled=True):
        model = under_current_autocast(torch.matmul)
        with without_autocast():
            before = states()
            assert model(values, values).dtype == torch.float16
            with pytest.raises(RuntimeError):
                model(values, torch.rand(2, 2))
            assert states() == before
    assert model(values, values).dtype == torch.float16
    assert states()[0] is False
    assert under_current_autocast(torch.matmul) is torch.matmul


def test_no_cast_of_a_weight_is_left_behind() -> None:
    network, images = nn.Linear(4, 2), torch.rand(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            before = under_current_autocast(network)(images)
            network.weight.zero_()
            network.bias.zero_()
        after = network(images)
        after.sum().backward()
    assert bool((before != 0).all())
    assert bool((after == 0).all())
    assert network.weight.grad is not None
