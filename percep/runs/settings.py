"""The schemas that hydra composes a configuration from, and the check of what comes out."""

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from percep.errors import InputError
from percep.runs import TASKS
from percep.runs.config import Config


def _unless(other: str, value: float, *, _parent_: DictConfig) -> float | None:
    """`${unless:OTHER,VALUE}` in conf/: VALUE, a default, but null where the key OTHER beside it is given.

    OTHER may have such a default itself, which is not given, and neither is null.
    """
    written = OmegaConf.to_container(_parent_, resolve=False)
    assert isinstance(written, dict)
    default = str(written[other]).startswith("${unless:")
    return value if default or _parent_[other] is None else None


OmegaConf.register_new_resolver("unless", _unless, replace=True)


def store_schemas() -> None:
    """Gives hydra what each `conf/task/NAME.yaml` starts from."""
    for name, task in TASKS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=task.config)


store_schemas()


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
