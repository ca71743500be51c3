"""task=merge: the tables and the report of what a run has finished."""

from collections.abc import Sequence
from pathlib import Path

from percep.runs import TASKS
from percep.runs.config import MergeTask
from percep.runs.engine.manifest import read_manifest
from percep.runs.engine.run import closing_lines
from percep.runs.task import Request


def merge(config: MergeTask, _: Request) -> Sequence[str]:
    """Merges the parts in the output folder, as the task says that left them.

    Raises:
        InputError: the folder holds no run, or a damaged part.
        OSError: a file cannot be written.
    """
    folder = Path(config.output)
    return closing_lines(TASKS[read_manifest(folder).settings["task"]].merge(folder), folder)
