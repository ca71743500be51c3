"""Fixtures for every test file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Triton decides when it is imported whether it interprets: always, but for the tests that need a device."""
    if config.option.markexpr == "not gpu":
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors lose more to threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command is run in an empty folder but for `photos`."""
    from command import enter  # noqa: PLC0415  importing the command takes seconds

    enter(tmp_path, monkeypatch)


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model the command asks for, it is given a small network."""
    from command import use_small_model  # noqa: PLC0415

    use_small_model(monkeypatch)
