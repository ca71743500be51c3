"""The README's Python runs as printed, and its commands name what exists."""

import pytest

from tests.support.pages import ROOT, check, commands, run

README = ROOT / "README.md"


@pytest.mark.slow("what is shown is of the real networks, on whole photographs")
def test_python_blocks_run():
    scope, _ = run(README)
    assert scope["result"].success.tolist() == [True] * 4
    assert scope["report"].within.tolist() == [True] * 4
    assert all(status == "solved" for status in scope["solution"].status)


@pytest.mark.slow("composes every command that is shown")
def test_commands_compose():
    found = commands(README)
    assert len(found) >= 7
    for arguments in found:
        check(arguments)
