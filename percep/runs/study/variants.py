"""What a configuration asks of a study: its variants, what each of them measures, and what is claimed."""

from dataclasses import dataclass
from typing import cast

from percep.attacks.criteria import Loss
from percep.errors import InputError
from percep.models import Source
from percep.models.classes import IMAGENET, IMAGENET_CLASSES
from percep.runs.config import ExplainTask, ModelConfig, VariantConfig
from percep.study.criteria import Claim
from percep.study.measurement import Depth
from percep.study.perturbations import Setting
from percep.study.tables import Correlation, Inference
from percep.windows import Window

CHANGE, ATTENTION = "dissimilarity", "gradcam"
"""The paper's two maps, which the criteria are about."""

_GAUSSIAN_TAPS, _GAUSSIAN_SIGMA = 11, 1.5


@dataclass(frozen=True)
class Variant:
    """A variant before it is run.

    Attributes:
        number: its place, 0 for the main one.
        name: for people, what differs from the main setting.
        model: the network's name.
        source: where that comes from; None for the network of the main variant.
        setting: the ball and the attack.
        depth: how much is measured: everything, of the main one.
    """

    number: int
    name: str
    model: str
    source: Source | None
    setting: Setting
    depth: Depth


def variants_of(config: ExplainTask) -> list[Variant]:
    """The variants of a study, the main one first.

    Raises:
        InputError: a window that is none, or a variant that is there more than once.
    """
    main = VariantConfig(floor=config.ball.floor, mean=config.ball.mean)
    variants = [_variant_of(config, number, variant) for number, variant in enumerate([main, *config.study.sweep])]
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"study.sweep holds {name} more than once, or beside the main setting: leave one out")
    return variants


def claim_of(config: ExplainTask) -> Claim:
    """What is tested."""
    criteria = config.criteria
    statistic = cast(Correlation, criteria.statistic)
    return Claim(CHANGE, ATTENTION, statistic, criteria.control, criteria.region, criteria.share)


def inference_of(config: ExplainTask) -> Inference:
    """Of every interval and test."""
    return Inference(config.seed, config.criteria.level, config.study.resamples)


def imagenet_first_class(model: ModelConfig, logits: int | None) -> int | None:
    """Index of the logit of ImageNet's first class; None of a network whose classes are not known to be its thousand.

    Args:
        model: of the configuration.
        logits: how many the network has, where known.
    """
    known = model.categories == IMAGENET if model.categories is not None else model.source != "custom"
    first_class = model.first_class or 0
    return first_class if known and logits == first_class + IMAGENET_CLASSES else None


def _variant_of(config: ExplainTask, number: int, variant: VariantConfig) -> Variant:
    setting = _setting(config, variant)
    return Variant(
        number,
        _name(config, variant, setting),
        variant.model or config.model.name,
        None if variant.model is None else cast(Source, variant.source),
        setting,
        _depth(config, full=number == 0),
    )


def _setting(config: ExplainTask, variant: VariantConfig) -> Setting:
    own = variant.floor is not None or variant.mean is not None
    if variant.window == "uniform":
        window = Window.uniform(variant.size, variant.stride)
    else:
        window = Window.gaussian(variant.size, _GAUSSIAN_SIGMA * variant.size / _GAUSSIAN_TAPS, variant.stride)
    return Setting(
        variant.floor if own else config.ball.floor,
        variant.mean if own else config.ball.mean,
        window,
        config.attack.steps,
        cast(Loss, config.attack.loss),
    )


def _name(config: ExplainTask, variant: VariantConfig, setting: Setting) -> str:
    levels = (("floor", setting.floor), ("mean", setting.mean))
    parts = [variant.model or config.model.name]
    parts += [f"{name} {level}" for name, level in levels if level is not None]
    plain = VariantConfig()
    if (variant.window, variant.size, variant.stride) != (plain.window, plain.size, plain.stride):
        parts.append(f"{variant.window} {variant.size}x{variant.size}, stride {variant.stride}")
    return ", ".join(parts)


def _depth(config: ExplainTask, *, full: bool) -> Depth:
    study, criteria = config.study, config.criteria
    shares = study.shares if full else (criteria.share,)
    return Depth(
        block=study.block,
        shares={share: study.draws if share == criteria.share else 1 for share in shares},
        control=criteria.control,
        full=full,
        steps=study.steps,
        integration=study.integration,
        baselines=tuple(study.baselines),
        gradients=study.gradients,
        attributions=tuple(study.attributions),
    )
