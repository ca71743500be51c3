"""The tasks of the command over any number of photographs and processes."""

from percep.runs.config import AttackTask, CompareTask, ExplainTask, InfoTask, MergeTask, MinimalTask
from percep.runs.task import Task

TASKS: dict[str, Task] = {
    "attack": Task(AttackTask, "percep.runs.attack.task.attack", "percep.runs.attack.outputs.merged"),
    "minimal": Task(MinimalTask, "percep.runs.attack.task.minimal", "percep.runs.attack.outputs.merged"),
    "compare": Task(CompareTask, "percep.runs.comparison.task.compare"),
    "explain": Task(ExplainTask, "percep.runs.study.task.explain", "percep.runs.study.outputs.merge_study"),
    "merge": Task(MergeTask, "percep.runs.merge.merge"),
    "info": Task(InfoTask, "percep.runs.info.info"),
}
"""The tasks, and the only list of them."""
