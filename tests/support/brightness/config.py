"""The configuration of task=brightness."""

from dataclasses import dataclass

from percep.errors import InputError
from percep.runs.config import BatchTask


@dataclass
class BrightnessTask(BatchTask):
    """task=brightness: which photographs are brighter than `threshold`, in (0, 1)."""

    threshold: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold must lie in (0, 1), got {self.threshold}")
