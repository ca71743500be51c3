"""The configuration of a run: the types and ranges of what `conf/` and the command line may say."""

from dataclasses import dataclass
from typing import get_args

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from percep.attacks.criteria import Loss
from percep.errors import InputError


@dataclass
class ModelConfig:
    """Which classifier: the arguments of `percep.models.load`."""

    source: str
    name: str
    checkpoint: str | None
    layer: str | None


@dataclass
class DataConfig:
    """Which photographs: a function of `percep.data`, its path, and how many at most."""

    source: str
    path: str | None
    limit: int | None

    def __post_init__(self) -> None:
        _require_choice("data.source", self.source, ("samples", "folder", "image"))
        if self.path is None and self.source != "samples":
            raise InputError(f"data.path is missing: data={self.source} needs data.path=PATH")
        if self.path is not None and self.source == "samples":
            raise InputError("data.path needs data=folder or data=image, as data=samples has no path")
        if self.limit is not None:
            _require_at_least("data.limit", self.limit, 1)


@dataclass
class BallConfig:
    """How much SSIM is kept."""

    floor: float | None
    mean: float | None

    def __post_init__(self) -> None:
        for name, level in (("ball.floor", self.floor), ("ball.mean", self.mean)):
            if level is not None and not 0 < level < 1:
                raise InputError(f"{name} must lie in (0, 1), got {level}")
        if self.floor is None and self.mean is None:
            raise InputError("ball.floor, ball.mean or both must be given, each in (0, 1)")


@dataclass
class AttackConfig:
    """How the ball is searched; `target` is a class index, "random", or None for an untargeted attack."""

    loss: str
    steps: int
    target: str | None

    def __post_init__(self) -> None:
        _require_choice("attack.loss", self.loss, get_args(Loss))
        _require_at_least("attack.steps", self.steps, 1)
        if self.target not in (None, "random") and not self.target.isdecimal():
            raise InputError(f"attack.target must be null, random or a class index, got {self.target!r}")


@dataclass
class Config:
    """All of a run's configuration."""

    task: str
    model: ModelConfig
    data: DataConfig
    ball: BallConfig
    attack: AttackConfig
    batch_size: int
    device: str
    seed: int
    output: str

    def __post_init__(self) -> None:
        _require_choice("task", self.task, ("attack",))
        _require_at_least("batch_size", self.batch_size, 1)
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be at least 0 and below 2**63, got {self.seed}")


# ${unless:GIVEN,VALUE} in conf/: VALUE where GIVEN is null, and null otherwise.
OmegaConf.register_new_resolver("unless", lambda given, value: value if given is None else None, replace=True)

# What conf/config.yaml starts from.
ConfigStore.instance().store(name="schema", node=Config)


def validated(composed: DictConfig) -> Config:
    """The configuration hydra composed, with every type and range checked.

    Raises:
        InputError: a value out of range.
        omegaconf.errors.OmegaConfBaseException: an unknown or missing key, or a value of another type.
    """
    values = OmegaConf.to_container(composed, resolve=True)
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), values))
    assert isinstance(config, Config)
    return config


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")
