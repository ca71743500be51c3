"""Fixtures of the kernels' tests."""

from collections.abc import Iterator

import pytest
import torch

from percep import kernels


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three of them, however small the images are, and kernels for those too."""
    from percep.kernels.cpu import launch  # noqa: PLC0415  imports Numba

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(launch, "_PIXELS_A_THREAD", 1)
    monkeypatch.setattr(kernels, "largest_side_for_torch", lambda window: 0)
    yield
    torch.set_num_threads(before)
