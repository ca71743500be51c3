"""What is measured on a batch of photographs: perturbations, maps of change and of attention, causal tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from percep.attacks.criteria import achieved
from percep.explain import (
    ablation_maps,
    centred_gaussian,
    confound_maps,
    contribution_maps,
    dissimilarity,
    edge_strength,
    energy_maps,
    gradcam,
    multiplier_maps,
    ssim_maps,
    wrong_classes,
)
from percep.explain.statistics.similarity import upsampled_blocks
from percep.models import Classifier
from percep.study.attributions import ATTRIBUTIONS, AttributionFunction, chosen_attributions, seventh_of
from percep.study.causal import CurveRow, RegionRow, curve_rows, region_rows
from percep.study.movement import APPEARING, movement_maps, new_classes_of
from percep.study.perturbations import (
    CONTROLS,
    UNIFORM,
    Setting,
    baseline_perturbation,
    equal_size,
    gradient_at,
    in_uniform_ball,
    optimum,
)


@dataclass(frozen=True)
class Depth:
    """How much is measured.

    Attributes:
        block: side of the blocks that maps are averaged over, in pixels.
        shares: areas of the causal tests, and how many matched and random regions are drawn of each.
        control: the one of `CONTROLS` that is always measured.
        full: every map, control, baseline and curve; or only what the criteria need.
        steps: of insertion and deletion curves.
        integration: gradients per image of attributions that average gradients.
        baselines: other attacks, by their names in `percep.choices.ATTACK_NAMES`.
        gradients: of each baseline, per image.
        attributions: names in `percep.study.ATTRIBUTIONS`, import paths, or functions: see `AttributionFunction`.
            Grad-CAM is measured in any case.
    """

    block: int
    shares: Mapping[float, int]
    control: str
    full: bool
    steps: int
    integration: int
    baselines: tuple[str, ...]
    gradients: int
    attributions: tuple[str | AttributionFunction, ...] = field(default_factory=lambda: tuple(ATTRIBUTIONS))


@dataclass(frozen=True)
class Measurements:
    """What was measured on the photographs of a batch that the attack fooled.

    Attributes:
        names: of the photographs.
        labels, new_classes: `(B,)` int64, and what the adversarial images were taken for.
        references, saved: `(B, C, H, W)`, the photographs and their adversarial versions as 8-bit images.
        logits_before, logits_after: `(B, K)`.
        ssim: `(B, C, H, W)`.
        changes: maps of the attack's perturbation, by name, `(B, H, W)`; with a floor also the controls' multipliers.
        attention: attributions of the model, and the control maps they are compared with, by name, `(B, H, W)`.
        movement: how Grad-CAM moves, by name, `(B, H, W)`: `percep.study.movement.movement_maps`.
        confounds: by name, `(B, H, W)`.
        others: 1 - SSIM of other perturbations, by name, `(B, H, W)`.
        regions, curves: the effect of parts of the perturbation.
    """

    names: list[str]
    labels: Tensor
    new_classes: Tensor
    references: Tensor
    saved: Tensor
    logits_before: Tensor
    logits_after: Tensor
    ssim: Tensor
    changes: dict[str, Tensor]
    attention: dict[str, Tensor]
    movement: dict[str, Tensor]
    confounds: dict[str, Tensor]
    others: dict[str, Tensor]
    regions: list[RegionRow]
    curves: list[CurveRow]


@dataclass(frozen=True)
class _Batch:
    """The photographs of a batch that the attack fooled, and the gradient of its loss at them."""

    model: Classifier
    names: list[str]
    images: Tensor
    saved: Tensor
    labels: Tensor
    targets: Tensor | None
    logits_before: Tensor
    logits_after: Tensor
    gradient: Tensor

    @property
    def delta(self) -> Tensor:
        return self.saved - self.images

    @property
    def new_classes(self) -> Tensor:
        return new_classes_of(self.logits_after, self.labels, self.targets)

    @property
    def size(self) -> tuple[int, int]:
        return int(self.images.shape[-2]), int(self.images.shape[-1])


def measure(
    model: Classifier,
    setting: Setting,
    depth: Depth,
    names: Sequence[str],
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    another: Tensor,
    randomised: Sequence[Classifier],
    generator: torch.Generator,
) -> Measurements | None:
    """Attacks photographs and measures those that were fooled; None if none was.

    Args:
        model: classifies every photograph as its label, and not as its target.
        setting: the ball and the attack.
        depth: how much is measured.
        names: of the photographs.
        images: `(B, C, H, W)` in [0, 1], multiples of 1/255.
        labels, targets: `(B,)` class indices.
        another: `(B, h, w)`, block means of another photograph's Grad-CAM for each.
        randomised: the model with more and more of its weights shuffled; only where `depth.full`.
        generator: of controls, regions and draws.
    """
    batch, fooled = _attacked(model, setting, names, images, labels, targets)
    if not batch.names:
        return None
    images, classes = batch.images, int(batch.logits_before.shape[1])
    ssim = ssim_maps(images, batch.saved)
    first = optimum(setting, images, batch.gradient)
    controls, control_multipliers = _controls(batch, setting, depth, generator)
    changes = {"dissimilarity": (1 - ssim).mean(1)}
    if depth.full or setting.floor is not None:
        changes["multiplier"] = multiplier_maps(first.ball, first.multipliers, first.unrounded)
    changes |= control_multipliers
    attention = {"gradcam": gradcam(model, images, batch.labels)}
    others, movement = {"first_order": first.delta} | controls, {}
    if depth.full:
        changes |= _further_changes(batch)
        attention |= _further_attention(batch, depth, classes, another[fooled], randomised, generator)
        movement = _movement(batch, attention["gradcam"], controls["random"])
        others |= _further_perturbations(batch, setting, depth, randomised)
    confounds = confound_maps(images)
    return Measurements(
        names=batch.names,
        labels=batch.labels,
        new_classes=batch.new_classes,
        references=images,
        saved=batch.saved,
        logits_before=batch.logits_before,
        logits_after=batch.logits_after,
        ssim=ssim,
        changes=changes,
        attention=attention,
        movement=movement,
        confounds=confounds,
        others={name: (1 - ssim_maps(images, images + other)).mean(1) for name, other in others.items()},
        regions=_regions(
            batch, depth, attention["gradcam"], movement, confounds["local_standard_deviation"], generator
        ),
        curves=_curves(batch, depth, attention, generator) if depth.full else [],
    )


def _attacked(
    model: Classifier,
    setting: Setting,
    names: Sequence[str],
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
) -> tuple[_Batch, Tensor]:
    """The photographs that were fooled, and their `(n,)` places among all; without one their gradients are empty."""
    saved = setting.attack(model)(images, labels, targets).images
    with torch.no_grad():
        before, after = model(images), model(saved)
    fooled = torch.nonzero(achieved(after, labels, targets)).flatten()
    images, labels = images[fooled], labels[fooled]
    targets = None if targets is None else targets[fooled]
    gradient = gradient_at(model, images, labels, targets, setting.loss) if len(fooled) else torch.empty_like(images)
    chosen = [names[i] for i in fooled.tolist()]
    return _Batch(
        model, chosen, images, saved[fooled], labels, targets, before[fooled], after[fooled], gradient
    ), fooled


def _controls(
    batch: _Batch, setting: Setting, depth: Depth, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The perturbations of control gradients in the attack's ball, and with a floor their multipliers, by name."""
    deltas: dict[str, Tensor] = {}
    multipliers: dict[str, Tensor] = {}
    for name in CONTROLS if depth.full else (depth.control,):
        control = optimum(setting, batch.images, CONTROLS[name](batch.gradient, generator))
        deltas[name] = control.delta
        if setting.floor is not None:
            multipliers[f"multiplier_{name}"] = multiplier_maps(control.ball, control.multipliers, control.unrounded)
    return deltas, multipliers


def _further_changes(batch: _Batch) -> dict[str, Tensor]:
    """The maps of the attack's perturbation that only a full measurement has."""
    return {
        "energy": energy_maps(batch.images, batch.delta),
        "contribution": contribution_maps(batch.gradient, batch.delta),
        "ablation": ablation_maps(
            batch.model, batch.images, batch.delta, batch.labels, batch.targets, stride=seventh_of(batch.images)
        ),
    }


def _further_attention(
    batch: _Batch,
    depth: Depth,
    classes: int,
    another: Tensor,
    randomised: Sequence[Classifier],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Attributions beside Grad-CAM, then the control maps."""
    model, images, labels = batch.model, batch.images, batch.labels
    wrong = wrong_classes(labels, classes, generator)
    maps = {
        name: attribution.maps(model, images, labels, depth.integration)
        for name, attribution in chosen_attributions(depth.attributions).items()
        if name != "gradcam"
    }
    maps |= {
        "wrong_class": gradcam(model, images, wrong),
        "another_image": upsampled_blocks(another, depth.block, batch.size),
        "gaussian": centred_gaussian(*batch.size).to(images).expand(len(images), *batch.size),
        "edges": edge_strength(images),
    }
    for stage, twin in enumerate(randomised, 1):
        maps[f"gradcam_randomised_{stage}"] = gradcam(twin, images, labels)
    return maps


def _movement(batch: _Batch, attention: Tensor, random: Tensor) -> dict[str, Tensor]:
    """How Grad-CAM moves, beside a random perturbation of the same SSIM."""
    noise = equal_size(batch.images, random, dissimilarity(batch.images, batch.delta))
    noisy = (batch.images + noise).clamp(0, 1)
    return movement_maps(batch.model, batch.images, batch.saved, noisy, batch.labels, batch.new_classes, attention)


def _further_perturbations(
    batch: _Batch, setting: Setting, depth: Depth, randomised: Sequence[Classifier]
) -> dict[str, Tensor]:
    """Perturbations of randomised models, of a uniform ball and of other attacks."""
    images = batch.images
    deltas = {}
    for stage, twin in enumerate(randomised, 1):
        with torch.no_grad():
            predicted = twin(images).argmax(1)
        gradient = gradient_at(twin, images, predicted, None, setting.loss)
        deltas[f"model_randomised_{stage}"] = optimum(setting, images, gradient).delta
    budget = dissimilarity(images, batch.delta)
    deltas[UNIFORM] = in_uniform_ball(setting, images, batch.gradient, budget)
    for name in depth.baselines:
        deltas[name] = baseline_perturbation(
            name, batch.model, images, batch.delta, batch.labels, batch.targets, depth.gradients, budget
        )
    return deltas


def _regions(
    batch: _Batch,
    depth: Depth,
    attention: Tensor,
    movement: dict[str, Tensor],
    texture: Tensor,
    generator: torch.Generator,
) -> list[RegionRow]:
    return region_rows(
        batch.names,
        batch.model,
        batch.images,
        batch.delta,
        batch.labels,
        batch.targets,
        attention,
        {name: maps for name, maps in movement.items() if name == APPEARING},
        texture,
        depth.shares,
        generator,
    )


def _curves(batch: _Batch, depth: Depth, attention: dict[str, Tensor], generator: torch.Generator) -> list[CurveRow]:
    delta = batch.delta
    orders = {
        "gradcam": attention["gradcam"],
        "another_image": attention["another_image"],
        "squared_perturbation": delta.square().sum(1),
        "random": torch.rand(delta[:, 0].shape, generator=generator).to(delta.device),
    }
    return curve_rows(
        batch.names,
        batch.model,
        batch.images,
        delta,
        batch.labels,
        batch.targets,
        orders,
        depth.block,
        depth.steps,
    )
