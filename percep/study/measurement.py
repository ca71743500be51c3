"""What is measured on a batch of photographs: perturbations, maps of change and of attention, causal tests."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    integrated_gradients,
    occlusion,
    price_maps,
    ssim_maps,
    wrong_classes,
)
from percep.models import Classifier
from percep.study.causal import CurveRow, RegionRow, curve_rows, region_rows
from percep.study.perturbations import (
    CONTROLS,
    UNIFORM,
    Setting,
    gradient_at,
    in_uniform_ball,
    optimum,
    rival,
)


@dataclass(frozen=True)
class Depth:
    """How much is measured.

    Attributes:
        block: side of the blocks that maps are averaged over, in pixels.
        shares: areas of the causal tests.
        draws: of matched and random regions.
        control: the one of `CONTROLS` that is always measured.
        full: every map, control, rival and curve; or only what the criteria need.
        steps: of insertion and deletion curves.
        integration: gradients of integrated gradients.
        rivals: other attacks, by their names in `CONTENDERS`.
        gradients: of each rival, per image.
    """

    block: int
    shares: tuple[float, ...]
    draws: int
    control: str
    full: bool
    steps: int
    integration: int
    rivals: tuple[str, ...]
    gradients: int


@dataclass(frozen=True)
class Examined:
    """A batch of adversarial photographs.

    Attributes:
        names: of the photographs.
        labels: `(B,)` int64.
        references, saved: `(B, C, H, W)`, the photographs and their adversarial versions as 8-bit images.
        logits_before, logits_after: `(B, K)`.
        ssim: `(B, C, H, W)`.
        changes: maps of the attack's perturbation, by name, `(B, H, W)`; with a floor also the prices of controls.
        attention: maps of the model and of what stands in for it, by name, `(B, H, W)`.
        confounds: by name, `(B, H, W)`.
        others: 1 - SSIM of other perturbations, by name, `(B, H, W)`.
        regions, curves: what parts of the perturbation do.
    """

    names: list[str]
    labels: Tensor
    references: Tensor
    saved: Tensor
    logits_before: Tensor
    logits_after: Tensor
    ssim: Tensor
    changes: dict[str, Tensor]
    attention: dict[str, Tensor]
    confounds: dict[str, Tensor]
    others: dict[str, Tensor]
    regions: list[RegionRow]
    curves: list[CurveRow]


def examine(
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
) -> Examined | None:
    """Attacks photographs and measures what came of those that were turned; None where none was.

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
    saved = setting.attack(model)(images, labels, targets).images
    with torch.no_grad():
        before, after = model(images), model(saved)
    turned = torch.nonzero(achieved(after, labels, targets)).flatten()
    if not len(turned):
        return None
    images, saved, labels, another = images[turned], saved[turned], labels[turned], another[turned]
    targets = None if targets is None else targets[turned]
    names = [names[i] for i in turned.tolist()]
    delta = saved - images
    size = (int(images.shape[-2]), int(images.shape[-1]))

    gradient = gradient_at(model, images, labels, targets, setting.loss)
    first = optimum(setting, images, gradient)
    ssim = ssim_maps(images, saved)
    changes = {"dissimilarity": (1 - ssim).mean(1)}
    if depth.full or setting.floor is not None:
        changes["price"] = price_maps(first.ball, first.multipliers, first.unrounded)
    attention = {"gradcam": gradcam(model, images, labels)}
    confounds = confound_maps(images)
    others = {"first_order": first.delta}
    for name in CONTROLS if depth.full else (depth.control,):
        control = optimum(setting, images, CONTROLS[name](gradient, generator))
        others[name] = control.delta
        if setting.floor is not None:
            changes[f"price_{name}"] = price_maps(control.ball, control.multipliers, control.unrounded)
    if depth.full:
        changes |= {
            "energy": energy_maps(images, delta),
            "contribution": contribution_maps(gradient, delta),
            "ablation": ablation_maps(model, images, delta, labels, targets),
        }
        wrong = wrong_classes(labels, int(before.shape[1]), generator)
        attention |= {
            "integrated_gradients": integrated_gradients(model, images, labels, depth.integration).maps,
            "occlusion": occlusion(model, images, labels).maps,
            "wrong_class": gradcam(model, images, wrong),
            "another_image": spread(another, depth.block, size),
            "gaussian": centred_gaussian(*size).to(images).expand(len(images), *size),
            "edges": edge_strength(images),
        }
        for stage, twin in enumerate(randomised, 1):
            attention[f"gradcam_randomised_{stage}"] = gradcam(twin, images, labels)
            with torch.no_grad():
                own = twin(images).argmax(1)
            pull = gradient_at(twin, images, own, None, setting.loss)
            others[f"model_randomised_{stage}"] = optimum(setting, images, pull).delta
        budget = dissimilarity(images, delta)
        others[UNIFORM] = in_uniform_ball(setting, images, gradient, budget)
        for name in depth.rivals:
            others[name] = rival(name, model, images, labels, targets, depth.gradients, budget)
    texture = confounds["local_standard_deviation"]
    regions = region_rows(
        names,
        model,
        images,
        delta,
        labels,
        targets,
        attention["gradcam"],
        texture,
        depth.shares,
        depth.draws,
        generator,
    )
    curves: list[CurveRow] = []
    if depth.full:
        orders = {
            "gradcam": attention["gradcam"],
            "another_image": attention["another_image"],
            "squared_perturbation": delta.square().sum(1),
            "random": torch.rand(delta[:, 0].shape, generator=generator).to(delta.device),
        }
        curves = curve_rows(names, model, images, delta, labels, targets, orders, depth.block, depth.steps)
    return Examined(
        names=names,
        labels=labels,
        references=images,
        saved=saved,
        logits_before=before[turned],
        logits_after=after[turned],
        ssim=ssim,
        changes=changes,
        attention=attention,
        confounds=confounds,
        others={name: (1 - ssim_maps(images, images + other)).mean(1) for name, other in others.items()},
        regions=regions,
        curves=curves,
    )


def spread(blocks: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Block means `(B, h, w)` as maps `(B, *size)` that are constant in each block."""
    height, width = size
    return blocks.repeat_interleave(side, 1)[:, :height].repeat_interleave(side, 2)[:, :, :width]
