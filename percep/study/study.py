"""A study of a configuration: every variant examined on its photographs, a batch at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from percep import models
from percep.attacks.comparison import contender
from percep.attacks.criteria import Loss
from percep.config import ExplainTask, VariantConfig
from percep.data import Photograph
from percep.data import Source as Photographs
from percep.errors import InputError, UnavailableError
from percep.explain import another_images, block_means, cascade, gradcam
from percep.models import Classifier, Source
from percep.study.criteria import Claim
from percep.study.examination import Depth, Evidence, Examined, examine
from percep.study.findings import PENDING, Findings, Variant, find
from percep.study.perturbations import Setting
from percep.study.tables import Correlation, Inference
from percep.subjects import load_subjects, look_at, photographs_of
from percep.windows import Window

CHANGE, ATTENTION = "dissimilarity", "gradcam"
"""The paper's two maps, which the criteria are about."""

_GAUSSIAN_TAPS, _GAUSSIAN_SIGMA = 11, 1.5


@dataclass(frozen=True)
class Step:
    """Progress of a study.

    Attributes:
        variant: that was worked on.
        photographs: how many photographs were read.
        examined: the main variant's photographs that were turned, for the report; None otherwise.
    """

    variant: str
    photographs: int
    examined: Examined | None = None


@dataclass(frozen=True)
class _Subject:
    """A photograph to attack, and another's Grad-CAM as block means."""

    label: int
    target: int | None
    another: Tensor


class Study:
    """The study of a configuration.

    Iterating does the work: each variant's photographs are read twice, once to see which are classified correctly and
    where the network looks, once to be attacked and examined. `findings` is there afterwards, made when asked for.

    Args:
        config: what to study, and how.

    Raises:
        InputError: a model, checkpoint, device, path, label or target that is not usable; while iterating, fewer than
            two photographs that are classified correctly, or none that is turned.
        UnavailableError: weights, libraries or a device of the main variant that cannot be had here. A variant whose
            model cannot be had, or cannot be studied, is reported with its reason.
    """

    def __init__(self, config: ExplainTask) -> None:
        self.config = config
        self.model, self.photographs = load_subjects(config)
        study, criteria = config.study, config.criteria
        self.planned = self.photographs.survey().count
        self.claim = Claim(
            CHANGE, ATTENTION, cast(Correlation, criteria.statistic), criteria.control, criteria.region, criteria.share
        )
        self.inference = Inference(config.seed, criteria.level, study.resamples)
        self.variants: list[Variant] = []
        main = VariantConfig(floor=config.ball.floor, mean=config.ball.mean)
        self._plan = [main, *study.sweep]
        names = [self._name(variant) for variant in self._plan]  # refuses a window that is none before anything runs
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"study.sweep holds {name} more than once, or beside the main setting: leave one out")
        for name in study.rivals:  # and an attack that is not installed, or given too few gradients
            contender(name, self.model, study.gradients)

    @property
    def reads(self) -> int | None:
        """How many photographs will be read in all; None where they are counted only by reading them."""
        return None if self.planned is None else 2 * len(self._plan) * self.planned

    def __iter__(self) -> Iterator[Step]:
        self.variants = []
        self.__dict__.pop("findings", None)
        for number, plan in enumerate(self._plan):
            variant = self._variant(plan)
            self.variants.append(variant)
            done = 0
            try:
                model, photographs = self._subjects(plan)
                for step in self._examine(variant, model, photographs, self._setting(plan), full=number == 0):
                    done += step.photographs
                    yield step
            except (InputError, UnavailableError) as error:
                if number == 0:
                    raise
                variant.problem = str(error)
                yield Step(variant.name, max(0, 2 * (self.planned or 0) - done))

    @property
    def turned(self) -> int:
        """How many photographs of the main variant were turned so far."""
        return self.variants[0].turned if self.variants else 0

    @cached_property
    def findings(self) -> Findings:
        """Of the variants that were examined, the main one first.

        Raises:
            InputError: no photograph of the main variant was turned.
        """
        if not self.turned:
            raise InputError("no photograph was turned, so there is nothing to explain: allow more with ball.mean")
        left = [self._variant(plan) for plan in self._plan[len(self.variants) :]]  # where it was interrupted
        return find([*self.variants, *left], self.claim, self.config.study.shares, self.inference)

    def _variant(self, plan: VariantConfig) -> Variant:
        return Variant(self._name(plan), plan.model or self.config.model.name, Evidence(self.config.study.block))

    def _examine(
        self, variant: Variant, model: Classifier, photographs: Photographs, setting: Setting, *, full: bool
    ) -> Iterator[Step]:
        # From the seed alone, so that a variant does not depend on the ones before it.
        generator = torch.Generator().manual_seed(self.config.seed)
        torch.manual_seed(self.config.seed)
        subjects: dict[str, _Subject] = {}
        yield from self._survey(variant, model, photographs, subjects, generator)
        depth = self._depth(full)
        randomised = [twin for _, twin in cascade(model, generator, self.config.study.stages)] if full else []
        remaining = (photograph for photograph in photographs if photograph.name in subjects)
        while batch := list(islice(remaining, self.config.batch_size)):
            known = [subjects[photograph.name] for photograph in batch]
            examined = examine(
                model,
                setting,
                depth,
                [photograph.name for photograph in batch],
                self._stacked(batch),
                self._integers([subject.label for subject in known]),
                self._targets(known),
                torch.stack([subject.another for subject in known]).to(self.config.device),
                cast(Sequence[Classifier], randomised),
                generator,
            )
            variant.statuses |= {photograph.name: "not_found" for photograph in batch}
            if examined is not None:
                variant.evidence.add(examined)
                variant.statuses |= dict.fromkeys(examined.names, "turned")
            yield Step(variant.name, len(batch), examined if full else None)
        yield Step(variant.name, len(variant.statuses) - len(subjects))

    def _survey(
        self,
        variant: Variant,
        model: Classifier,
        photographs: Photographs,
        subjects: dict[str, _Subject],
        generator: torch.Generator,
    ) -> Iterator[Step]:
        """Fills in the subjects and every photograph's status."""
        labels: dict[str, tuple[int, int | None]] = {}
        blocks: list[Tensor] = []
        for photograph in photographs:
            status, found = self._look(model, photograph)
            variant.statuses[photograph.name] = status
            if found is not None:
                labels[photograph.name] = found[:2]
                blocks.append(found[2])
            yield Step(variant.name, 1)
        if len(blocks) < 2:
            raise InputError(
                f"a study compares photographs: it needs two that {variant.model} classifies correctly, "
                f"found {len(blocks)} of {len(variant.statuses)}"
            )
        others = another_images(torch.stack(blocks), generator)
        for (name, (label, target)), another in zip(labels.items(), others, strict=True):
            subjects[name] = _Subject(label, target, another)

    def _look(self, model: Classifier, photograph: Photograph) -> tuple[str, tuple[int, int | None, Tensor] | None]:
        """A photograph's status, `PENDING` where it is to be attacked, and what is to be known of a subject."""
        looked = look_at(photograph, model, self.config, self.config.attack.target)
        if looked.status is not None:
            return looked.status, None
        assert looked.image is not None and looked.label is not None
        blocks = block_means(gradcam(model, looked.image, looked.label), self.config.study.block)[0].cpu()
        return PENDING, (int(looked.label), None if looked.target is None else int(looked.target), blocks)

    def _subjects(self, plan: VariantConfig) -> tuple[Classifier, Photographs]:
        if plan.model is None:
            return self.model, self.photographs
        model = models.load(plan.model, source=cast(Source, plan.source), device=self.config.device)
        return model, photographs_of(self.config.data, model)

    def _setting(self, plan: VariantConfig) -> Setting:
        ball, attack = self.config.ball, self.config.attack
        own = plan.floor is not None or plan.mean is not None
        if plan.window == "uniform":
            window = Window.uniform(plan.size, plan.stride)
        else:
            window = Window.gaussian(plan.size, _GAUSSIAN_SIGMA * plan.size / _GAUSSIAN_TAPS, plan.stride)
        return Setting(
            plan.floor if own else ball.floor,
            plan.mean if own else ball.mean,
            window,
            attack.steps,
            cast(Loss, attack.loss),
        )

    def _name(self, plan: VariantConfig) -> str:
        setting = self._setting(plan)
        levels = (("floor", setting.floor), ("mean", setting.mean))
        parts = [plan.model or self.config.model.name]
        parts += [f"{name} {level}" for name, level in levels if level is not None]
        plain = VariantConfig()
        if (plan.window, plan.size, plan.stride) != (plain.window, plain.size, plain.stride):
            parts.append(f"{plan.window} {plan.size}x{plan.size}, stride {plan.stride}")
        return ", ".join(parts)

    def _depth(self, full: bool) -> Depth:
        study, criteria = self.config.study, self.config.criteria
        return Depth(
            block=study.block,
            shares=tuple(study.shares) if full else (criteria.share,),
            draws=study.draws,
            control=criteria.control,
            full=full,
            steps=study.steps,
            integration=study.integration,
            rivals=tuple(study.rivals),
            gradients=study.gradients,
        )

    def _stacked(self, photographs: Sequence[Photograph]) -> Tensor:
        images = [photograph.image for photograph in photographs if photograph.image is not None]
        return torch.stack(images).to(self.config.device)

    def _targets(self, subjects: Sequence[_Subject]) -> Tensor | None:
        targets = [subject.target for subject in subjects if subject.target is not None]
        return self._integers(targets) if targets else None

    def _integers(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.config.device)
