"""The configuration of a run, one type per task: the types and ranges of what `conf/` and the command line may say.

Neither torch nor hydra is imported here: a misspelt key is found without them.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from percep.choices import (
    ATTACK_NAMES,
    ATTRIBUTION_NAMES,
    CONTROL_NAMES,
    CORRELATIONS,
    DATA_SOURCES,
    FROM_NAMES,
    REGIONS,
    STRATA,
    Loss,
    Measure,
    Source,
)
from percep.errors import InputError
from percep.validation.model_settings import check_model_settings


@dataclass
class ModelConfig:
    """Which classifier: the arguments of `percep.models.load`."""

    source: str
    name: str
    network: Any  # a mapping, or null
    checkpoint: str | None
    mean: list[float] | None
    std: list[float] | None
    resize: int | None
    crop: int | None
    interpolation: str | None
    categories: str | None
    first_class: int | None
    layer: str | None

    def __post_init__(self) -> None:
        check_model_settings(
            self.source,
            network=self.network,
            mean=self.mean,
            std=self.std,
            resize=self.resize,
            crop=self.crop,
            interpolation=self.interpolation,
            first_class=self.first_class,
            prefix="model.",
        )


@dataclass
class DataConfig:
    """Which photographs, their path and labels, how many at most, and how many processes read ahead.

    What is said of labels are the arguments of `percep.data.labels.Labels.read`, or "filename" for `NameLabels`.
    """

    source: str
    path: str | None
    labels: str | None
    name_column: str | None
    label_column: str | None
    target_column: str | None
    first_class: int | None
    limit: int | None
    workers: int

    def __post_init__(self) -> None:
        _require_choice("data.source", self.source, DATA_SOURCES)
        if self.path is None and self.source != "samples":
            raise InputError(f"data.path is missing: data={self.source} needs data.path=PATH")
        if self.path is not None and self.source == "samples":
            raise InputError("data.path needs data=folder or data=image, as data=samples has no path")
        self._check_labels()
        _require_at_least("data.workers", self.workers, 0)
        if self.limit is not None:
            _require_at_least("data.limit", self.limit, 1)

    def _check_labels(self) -> None:
        if self.labels is not None and self.source == "samples":
            raise InputError("data.labels needs photographs of your own: the samples have labels")
        if self.labels is not None and self.source == "imagefolder":
            raise InputError(
                "data=imagefolder takes labels from its folders: use data=folder with data.labels, at any depth"
            )
        for name in ("name_column", "label_column", "target_column", "first_class"):
            if getattr(self, name) is not None and self.labels in (None, FROM_NAMES):
                raise InputError(f"data.{name} is about a label file: give data.labels=FILE")
        if self.first_class not in (None, 0, 1):
            raise InputError(f"data.first_class must be 0 or 1, got {self.first_class}")


@dataclass
class BallConfig:
    """How much SSIM is kept: at least `floor` in any window, at least `mean` on average, or both."""

    floor: float | None
    mean: float | None

    def __post_init__(self) -> None:
        _require_level("ball.floor", self.floor)
        _require_level("ball.mean", self.mean)
        if self.floor is None and self.mean is None:
            raise InputError("ball.floor, ball.mean or both must be given, each in (0, 1)")


@dataclass
class GoalConfig:
    """What an attack is to reach: `target` is a class index, "random", or None where the label is to be left."""

    target: str | None

    def __post_init__(self) -> None:
        if self.target not in (None, "random") and not self.target.isdecimal():
            raise InputError(f"attack.target must be null, random or a class index, got {self.target!r}")


@dataclass
class BallAttackConfig(GoalConfig):
    """How a ball is searched."""

    loss: str
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_choice("attack.loss", self.loss, get_args(Loss))
        _require_at_least("attack.steps", self.steps, 1)


@dataclass
class MinimalAttackConfig(GoalConfig):
    """How the largest SSIM is searched at which the goal is still reached."""

    measure: str
    gradients: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_choice("attack.measure", self.measure, get_args(Measure))
        _require_at_least("attack.gradients", self.gradients, 1)


@dataclass
class CompareConfig:
    """Which attacks are compared, within how many gradients per image, and at which SSIM floor if any."""

    attacks: list[str]
    gradients: int
    floor: float | None

    def __post_init__(self) -> None:
        if not self.attacks:
            raise InputError(f"compare.attacks is empty: choose from {', '.join(ATTACK_NAMES)}")
        for name in self.attacks:
            if name not in ATTACK_NAMES:
                raise InputError(_unknown("compare.attacks", name, ATTACK_NAMES))
        _require_distinct("compare.attacks", self.attacks)
        _require_at_least("compare.gradients", self.gradients, 1)
        _require_level("compare.floor", self.floor)


@dataclass
class Config:
    """What every task is told: which task, of which model, on which photographs."""

    task: str
    model: ModelConfig
    data: DataConfig
    device: str
    seed: int
    output: str

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be at least 0 and below 2**63, got {self.seed}")
        if self.data.target_column is not None and self.target() is not None:
            raise InputError(
                "data.target_column and attack.target both say what an attack is to reach: give one of them"
            )

    def target(self) -> str | None:
        """What the attacks of a task are to reach: see `GoalConfig`."""
        return None


class Attacks:
    """The tasks that attack."""

    attack: GoalConfig

    def target(self) -> str | None:
        """See `Config.target`."""
        return self.attack.target


@dataclass
class BatchTask(Config):
    """How many photographs are attacked together."""

    batch_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_at_least("batch_size", self.batch_size, 1)


@dataclass
class PicturedTask(Attacks, BatchTask):
    """An attack on many photographs: of how many the report has pictures."""

    pictures: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_at_least("pictures", self.pictures, 0)


@dataclass
class AttackTask(PicturedTask):
    """task=attack: photographs attacked inside a ball."""

    ball: BallConfig
    attack: BallAttackConfig


@dataclass
class MinimalTask(PicturedTask):
    """task=minimal: photographs changed as little as the goal allows."""

    attack: MinimalAttackConfig


@dataclass
class CompareTask(Attacks, Config):
    """task=compare: several attacks on the same photographs, image by image."""

    attack: GoalConfig
    compare: CompareConfig


@dataclass
class VariantConfig:
    """A setting that the study is repeated in; what is not given is as in the main setting.

    `model` is a model's name and `source` where it comes from. The window is Gaussian of 11 taps, or uniform over
    `size` pixels, or Gaussian of `size` taps with sigma in proportion, moved by `stride`.
    """

    model: str | None = None
    source: str = "packaged"
    floor: float | None = None
    mean: float | None = None
    window: str = "gaussian"
    size: int = 11
    stride: int = 1

    def __post_init__(self) -> None:
        _require_level("study.sweep: floor", self.floor)
        _require_level("study.sweep: mean", self.mean)
        _require_choice("study.sweep: source", self.source, get_args(Source))
        _require_choice("study.sweep: window", self.window, ("gaussian", "uniform"))
        _require_at_least("study.sweep: size", self.size, 1)
        _require_at_least("study.sweep: stride", self.stride, 1)


@dataclass
class StudyConfig:
    """How much a study measures: see `percep.study.Depth`; `stages` models are randomised, and `sweep` repeats it.

    `draws` matched and random regions have the area that the criteria are about; of other areas there is one.
    `attributions` are names, and import paths, which have a dot. `strata` are the splits of photographs whose
    associations are compared, chosen before the run.
    """

    block: int
    shares: list[float]
    draws: int
    steps: int
    integration: int
    stages: int
    baselines: list[str]
    gradients: int
    attributions: list[str]
    resamples: int
    sweep: list[VariantConfig]
    strata: list[str]

    def __post_init__(self) -> None:
        for name in ("block", "draws", "steps", "integration", "stages", "gradients"):
            _require_at_least(f"study.{name}", getattr(self, name), 1)
        _require_at_least("study.resamples", self.resamples, 99)
        if not self.shares or not all(0 < share <= 0.5 for share in self.shares):
            raise InputError(f"study.shares must lie in (0, 1/2], got {self.shares}")
        for name in self.baselines:
            _require_choice("study.baselines", name, ATTACK_NAMES)
        for name in self.strata:
            _require_choice("study.strata", name, STRATA)
        for name in self.attributions:
            if "." not in name and name not in ATTRIBUTION_NAMES:
                raise InputError(_unknown("study.attributions", name, ATTRIBUTION_NAMES) + ", and import paths")
        _require_distinct("study.attributions", self.attributions)


@dataclass
class CriteriaConfig:
    """What the claim is judged by, fixed before the run: see `percep.study.Claim`."""

    statistic: str
    control: str
    region: str
    share: float
    level: float

    def __post_init__(self) -> None:
        _require_choice("criteria.statistic", self.statistic, CORRELATIONS)
        _require_choice("criteria.control", self.control, CONTROL_NAMES)
        _require_choice("criteria.region", self.region, REGIONS[1:])
        _require_level("criteria.level", self.level)


@dataclass
class StudyReportConfig:
    """What a study writes beside its page: with `vector` also figures as PDF and tables in LaTeX."""

    vector: bool = False


@dataclass
class ExplainTask(Attacks, BatchTask):
    """task=explain: whether perturbations fall on what the classifier looks at."""

    ball: BallConfig
    attack: BallAttackConfig
    study: StudyConfig
    criteria: CriteriaConfig
    report: StudyReportConfig = field(default_factory=StudyReportConfig)  # not in run folders of earlier versions

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.criteria.share not in self.study.shares:
            raise InputError(
                f"criteria.share must be one of study.shares {self.study.shares}, got {self.criteria.share}"
            )


@dataclass
class MergeTask(Config):
    """task=merge: the tables and the report of what a run has finished, from its output folder."""


@dataclass
class InfoTask(Config):
    """task=info: versions, devices, and where the model's weights come from."""


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _unknown(key: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name in a list that is none of those known."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{key}: unknown {name!r}: {hint}known are {', '.join(known)}"


def _require_distinct(key: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{key} names {name} more than once")


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")


def _require_level(name: str, level: float | None) -> None:
    if level is not None and not 0 < level < 1:
        raise InputError(f"{name} must lie in (0, 1), got {level}")
