"""task=merge of a folder that it can do nothing with."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from percep.runs.engine.manifest import Manifest, claim
from tests.support.command import complaint


@pytest.mark.slow("a run of the command")
@pytest.mark.parametrize(
    ("settings", "words"),
    [({"task": "brightness"}, "holds a run of task=brightness: known are attack,"), ({}, "holds a run of no task: ")],
)
def test_a_run_of_a_task_that_is_not_known_is_one_line(
    settings: Mapping[str, str], words: str, elsewhere: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out").mkdir()
    claim(Path("out"), Manifest("percep", settings, {}, 1, 1))
    assert words in complaint(capsys, "task=merge", "output=out")
