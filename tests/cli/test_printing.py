"""Whether a pipe that broke is the one that is printed to, also where the system cannot be asked."""

import os
import select
import sys

import pytest

from percep.cli.printing import is_unread


def _print_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w"))


def test_a_pipe_that_nobody_reads_is_told_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    _print_to_nobody(monkeypatch)
    assert is_unread(BrokenPipeError())
    assert not is_unread(OSError())


def test_where_there_is_no_poll_a_broken_pipe_is_an_error_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    _print_to_nobody(monkeypatch)
    monkeypatch.delattr(select, "poll")
    assert not is_unread(BrokenPipeError())
