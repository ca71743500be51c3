"""The effect of parts of the perturbation over all photographs: by region, per unit of 1 - SSIM, and along curves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from percep.explain import rate_interval
from percep.study.causal import BUDGETS, Budget, CurveRow, RegionRow
from percep.study.evidence import Evidence
from percep.study.tables import Comparison, Inference

CURVES = ("insertion", "deletion")


@dataclass(frozen=True)
class CausalRow:
    """The effect of the perturbation restricted to one kind of region, over all images.

    Attributes:
        variant: of the study.
        share, region, budget: as in `RegionRow`.
        mass: mean share of the full perturbation's 1 - SSIM.
        gain, low, high: mean share of the full perturbation's gain in margin, and its interval.
        flipped, flipped_low, flipped_high: rate of images still adversarial, with Wilson's interval.
        out_of_reach: images whose equal budget could not be spent in the region.
        distance: mean distance of matched regions' texture from the top's.
        per_unit, per_unit_low, per_unit_high: mean share of the gain per share of 1 - SSIM, `gain_per_unit`, and its
            interval; None at the equal budget.
    """

    variant: str
    share: float
    region: str
    budget: str
    mass: float
    gain: float
    low: float
    high: float
    flipped: float
    flipped_low: float
    flipped_high: float
    out_of_reach: int
    distance: float | None
    per_unit: float | None
    per_unit_low: float | None
    per_unit_high: float | None


def causal_rows(variant: str, rows: Sequence[RegionRow], inference: Inference) -> list[CausalRow]:
    """One row per share, region and budget."""
    return [
        _causal_row(variant, own, inference)
        for share in dict.fromkeys(row.share for row in rows)
        for region in dict.fromkeys(row.region for row in rows)
        for budget in BUDGETS
        if (own := [row for row in rows if (row.share, row.region, row.budget) == (share, region, budget)])
    ]


def _causal_row(variant: str, rows: Sequence[RegionRow], inference: Inference) -> CausalRow:
    """Of the rows of one share, region and budget, a row per photograph."""
    first = rows[0]
    gain = inference.interval(np.array([row.gain for row in rows]))
    rate = rate_interval([float(row.flipped) for row in rows], inference.level)
    distances = [row.distance for row in rows if row.distance is not None]
    per_unit: tuple[float | None, ...] = (None, None, None)
    if first.budget == "own":
        found = inference.interval(np.array([gain_per_unit(row) for row in rows]))
        per_unit = (found.estimate, found.low, found.high)
    return CausalRow(
        variant,
        first.share,
        first.region,
        first.budget,
        float(np.mean([row.mass for row in rows])),
        gain.estimate,
        gain.low,
        gain.high,
        rate.estimate,
        rate.low,
        rate.high,
        sum(not row.reached for row in rows),
        float(np.mean(distances)) if distances else None,
        *per_unit,
    )


def gain_per_unit(row: RegionRow) -> float:
    """Its share of the gain over its share of 1 - SSIM; NaN where it has none of that.

    1 where the region gains as much per unit of 1 - SSIM as the full perturbation does. Of the own budget: the equal
    one spends as much in every region.
    """
    return row.gain / row.mass if row.mass > 0 else np.nan


def gains(rows: Sequence[RegionRow], names: Sequence[str], share: float, region: str, budget: str) -> np.ndarray:
    """`(N,)` shares of the full perturbation's gain in margin, in the order of the names."""
    return _by_name(rows, names, (share, region, budget), lambda row: row.gain)


def areas(rows: Sequence[CurveRow], names: Sequence[str], kind: str, order: str, by_energy: bool) -> np.ndarray:
    """`(N,)` areas under curves, in the order of the names."""
    found = {
        row.name: row.area_by_energy if by_energy else row.area
        for row in rows
        if (row.kind, row.order) == (kind, order)
    }
    return np.array([found[name] for name in names])


def causal_comparisons(evidence: Evidence, shares: Sequence[float]) -> list[Comparison]:
    """Paired comparisons: the top of Grad-CAM against every other region, and its order of blocks against others."""
    by_region = [
        *_region_comparisons(evidence, shares, "share of the gain, {share:.0%} of the image, own budget", "own", _gain),
        *_region_comparisons(
            evidence, shares, "share of the gain, {share:.0%} of the image, equal budget", "equal", _gain
        ),
        *_region_comparisons(
            evidence, shares, "gain per unit of 1 − SSIM, {share:.0%} of the image", "own", gain_per_unit
        ),
    ]
    return by_region + [one for kind in CURVES for one in _curve_comparisons(evidence, kind)]


def _region_comparisons(
    evidence: Evidence, shares: Sequence[float], question: str, budget: Budget, value: Callable[[RegionRow], float]
) -> Iterator[Comparison]:
    rows, names = evidence.regions, evidence.names
    for share in shares:
        top = (share, "top", budget)
        for region in dict.fromkeys(row.region for row in rows if row.region != "top"):
            values = (_by_name(rows, names, key, value) for key in (top, (share, region, budget)))
            yield Comparison(question.format(share=share), "top", region, *values)


def _curve_comparisons(evidence: Evidence, kind: str) -> Iterator[Comparison]:
    rows, names = evidence.curves, evidence.names
    for by_energy in (False, True):
        for order in dict.fromkeys(row.order for row in rows if row.order != "gradcam"):
            yield Comparison(
                f"{kind} area over {'energy' if by_energy else 'blocks'}, by order",
                "gradcam",
                order,
                areas(rows, names, kind, "gradcam", by_energy),
                areas(rows, names, kind, order, by_energy),
            )


def _gain(row: RegionRow) -> float:
    return row.gain


def _by_name(
    rows: Sequence[RegionRow],
    names: Sequence[str],
    key: tuple[float, str, str],
    value: Callable[[RegionRow], float],
) -> np.ndarray:
    """`(N,)` values of the rows of one share, region and budget, in the order of the names; NaN where there is none."""
    found = {row.name: value(row) for row in rows if (row.share, row.region, row.budget) == key}
    return np.array([found.get(name, np.nan) for name in names])
