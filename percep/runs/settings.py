"""A composed configuration, with every type and range checked."""

from omegaconf import DictConfig, OmegaConf

from percep.errors import InputError
from percep.runs import TASKS
from percep.runs.config import Config


def validated(composed: DictConfig) -> Config:
    """The configuration hydra composed, with every type and range checked.

    Raises:
        InputError: a value out of range, or no task.
        omegaconf.errors.OmegaConfBaseException: an unknown or missing key, or a value of another type.
    """
    task = composed.get("task")
    if task not in TASKS:
        raise InputError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TASKS[task].config), composed))
    assert isinstance(config, Config)
    return config
