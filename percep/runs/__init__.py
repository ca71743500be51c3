"""The tasks of the command over any number of photographs and processes."""

from percep.runs.config import AttackTask, CompareTask, ExplainTask, InfoTask, MergeTask, MinimalTask
from percep.runs.task import ResumableTask, Task

TASKS: dict[str, Task] = {
    "attack": ResumableTask(AttackTask, "percep.runs.attack.task.BallCampaign"),
    "minimal": ResumableTask(MinimalTask, "percep.runs.attack.task.MinimalCampaign"),
    "compare": ResumableTask(CompareTask, "percep.runs.comparison.task.ComparisonCampaign"),
    "explain": ResumableTask(ExplainTask, "percep.runs.study.task.StudyCampaign"),
    "merge": Task(MergeTask, "percep.runs.merge.merge"),
    "info": Task(InfoTask, "percep.runs.info.info"),
}
"""The tasks, and the only list of them."""
