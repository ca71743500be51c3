"""The effect of parts of a perturbation: restricted to regions, and added or removed block by block."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from percep.attacks.criteria import margin
from percep.choices import REGIONS
from percep.explain import (
    curves,
    dissimilarity,
    matched_region,
    random_region,
    restrict,
    shifted_region,
    ssim_maps,
    top_region,
)

Model = Callable[[Tensor], Tensor]
Budget = Literal["own", "equal"]

BUDGETS: tuple[Budget, ...] = ("own", "equal")
_RANDOM = ("matched", "shifted", "random")


@dataclass(frozen=True)
class RegionRow:
    """The effect of one image's perturbation restricted to one kind of region.

    Attributes:
        name: the image's.
        share: of the image that the top region covers; "outside" is the complement.
        region: the "top" of the attention map; "outside" it; "matched" to it in texture and disjoint from it; "shifted"
            in one piece to where the texture is similar; shifted at "random"; or the top of another map, by its name.
        budget: "own", the perturbation inside unchanged, or "equal", rescaled to the mean SSIM of the full
            perturbation.
        mass: the region's share of the full perturbation's 1 - SSIM. At the optimum of a ball of mean SSIM a region's
            gain equals its mass to first order, whatever the region: read the two together.
        gain: the restricted perturbation's share of the full one's gain in margin: 0 for none, 1 for all; NaN where an
            equal budget could not be spent in every draw.
        flipped: whether the image is still adversarial; of the first draw where regions are random.
        reached: whether the equal budget could be spent, in all draws.
        distance: between a matched or shifted region's distribution of texture and the top's (Kolmogorov and
            Smirnov); None for other regions.
    """

    name: str
    share: float
    region: str
    budget: str
    mass: float
    gain: float
    flipped: bool
    reached: bool
    distance: float | None


def region_rows(
    names: list[str],
    model: Model,
    reference: Tensor,
    delta: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    attention: Tensor,
    further: Mapping[str, Tensor],
    texture: Tensor,
    shares: Mapping[float, int],
    generator: torch.Generator,
) -> list[RegionRow]:
    """A row per image, share, region and budget; means over the draws of random regions.

    Args:
        names: of the images.
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits.
        reference: `(B, C, H, W)` in [0, 1].
        delta: the same shape, adversarial perturbations.
        labels, targets: `(B,)` class indices.
        attention: `(B, H, W)`; its top regions are compared with the others.
        further: other maps by name, `(B, H, W)`, whose top regions are measured as well.
        texture: `(B, H, W)`, `percep.explain.local_standard_deviation`.
        shares: areas of the top regions, in (0, 1/2], and how many matched, shifted and random regions each has.
        generator: of ties and draws.
    """
    original, full = (_margins(model, images, labels, targets) for images in (reference, reference + delta))
    budgets: dict[Budget, Tensor | None] = {"own": None, "equal": dissimilarity(reference, delta)}
    spent = (1 - ssim_maps(reference, reference + delta)).mean(1)
    spent = spent / spent.sum((1, 2), keepdim=True)
    rows = []
    for share, draws in shares.items():
        top = top_region(attention, share, generator)
        for region in (*REGIONS, *further):
            if region in further:
                masks, distances = [top_region(further[region], share, generator)], None
            else:
                masks, distances = _masks(region, top, texture, draws if region in _RANDOM else 1, generator)
            mass = torch.stack([(spent * mask).sum((1, 2)) for mask in masks]).mean(0)
            for budget, goal in budgets.items():
                parts = [restrict(reference, delta, mask, goal) for mask in masks]
                margins = torch.stack([_margins(model, reference + part.delta, labels, targets) for part in parts])
                reached = torch.stack([part.reached for part in parts]).all(0)
                gains = ((margins - original) / (full - original)).mean(0).where(reached, torch.nan)
                far = [None] * len(names) if distances is None else distances.tolist()
                columns = (mass.tolist(), gains.tolist(), (margins[0] > 0).tolist(), reached.tolist(), far)
                rows += [
                    RegionRow(name, share, region, budget, *values)
                    for name, *values in zip(names, *columns, strict=True)
                ]
    return rows


@dataclass(frozen=True)
class CurveRow:
    """One insertion or deletion curve of one image.

    Attributes:
        name: the image's.
        kind: "insertion" or "deletion".
        order: which map's order blocks follow.
        area: under the curve over the share of blocks; 1/2 where every block counts alike.
        area_by_energy: over the share of the perturbation's energy; 1/2 where blocks do as much as their energy.
        progress: the curve, from 0 to 1 at equal steps of the share of blocks.
    """

    name: str
    kind: str
    order: str
    area: float
    area_by_energy: float
    progress: tuple[float, ...]


def curve_rows(
    names: list[str],
    model: Model,
    reference: Tensor,
    delta: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    orders: Mapping[str, Tensor],
    side: int,
    steps: int,
) -> list[CurveRow]:
    """Insertion and deletion curves of every image in the order of every map; arguments as for `insertion`."""
    found = curves(model, reference, delta, orders, labels, targets, side=side, steps=steps)
    return [
        CurveRow(name, kind, order, float(area), float(by_energy), tuple(progress.tolist()))
        for (kind, order), curve in found.items()
        for name, area, by_energy, progress in zip(names, curve.area, curve.area_by_energy, curve.progress, strict=True)
    ]


def _masks(
    region: str, top: Tensor, texture: Tensor, draws: int, generator: torch.Generator
) -> tuple[list[Tensor], Tensor | None]:
    if region == "top":
        return [top], None
    if region == "outside":
        return [~top], None
    if region == "random":
        return [random_region(top, generator) for _ in range(draws)], None
    choose = matched_region if region == "matched" else shifted_region
    matched = [choose(top, texture, generator) for _ in range(draws)]
    return [found.mask for found in matched], torch.stack([found.distance for found in matched]).mean(0)


@torch.no_grad()
def _margins(model: Model, images: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    return margin(model(images), labels, targets).double()
