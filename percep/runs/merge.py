"""task=merge: the tables and the report of what a run has finished."""

from collections.abc import Sequence
from pathlib import Path

from percep.errors import InputError
from percep.runs import TASKS
from percep.runs.config import MergeTask
from percep.runs.engine.manifest import read_manifest
from percep.runs.engine.run import closing_lines
from percep.runs.task import Request


def merge(config: MergeTask, _: Request) -> Sequence[str]:
    """Merges the parts in the output folder, as the task says that left them.

    Raises:
        InputError: the folder holds no run, one of an unknown task, or a damaged part.
        OSError: a file cannot be written.
    """
    folder = Path(config.output)
    task = read_manifest(folder).settings.get("task")
    if task not in TASKS:
        found = "no task" if task is None else f"task={task}"
        raise InputError(f"output folder {folder} holds a run of {found}: known are {', '.join(TASKS)}")
    return closing_lines(TASKS[task].merge(folder), folder)
