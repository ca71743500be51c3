"""The tables over all photographs: associations with their tests, paired comparisons, and effects by region."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from percep.choices import CORRELATIONS, Correlation
from percep.explain import (
    Interval,
    Statistic,
    bootstrap_interval,
    exchange_test,
    iou,
    iou_shifts,
    paired_tests,
    partial_spearman,
    partial_spearman_shifts,
    pearson,
    pearson_shifts,
    pointing_game,
    pointing_game_shifts,
    rate_interval,
    relevance_mass,
    relevance_mass_shifts,
    shift_test,
    spearman,
    spearman_shifts,
)
from percep.explain.statistics.similarity import (
    flattened,
    masses,
    partial_residuals,
    peaks,
    ranks,
    standardised,
    top_membership,
)
from percep.study.causal import BUDGETS, CurveRow, RegionRow

Overlap = Literal["iou", "pointing_game", "relevance_mass"]

OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)

_EXCHANGED = 200
"""Images whose maps are exchanged; all pairs of them are compared."""

_OVERLAP: dict[Overlap, Callable[..., Statistic]] = {
    "iou": iou,
    "pointing_game": pointing_game,
    "relevance_mass": relevance_mass,
}
_OVERLAP_SHIFTS: dict[Overlap, Callable[[Tensor, Tensor, float], np.ndarray]] = {
    "iou": iou_shifts,
    "pointing_game": pointing_game_shifts,
    "relevance_mass": relevance_mass_shifts,
}


@dataclass(frozen=True)
class Inference:
    """The seed of every resampling, the confidence level of intervals, and the number of resamples."""

    seed: int
    level: float
    resamples: int

    def interval(self, values: np.ndarray) -> Interval:
        """The bootstrap interval of a mean over images."""
        return bootstrap_interval(values, self.seed, self.level, self.resamples)


@dataclass(frozen=True)
class AssociationRow:
    """The association of two kinds of map over all images.

    Attributes:
        variant: of the study.
        first, second: the maps.
        statistic: of `percep.explain`; one number per image, of which the mean is reported.
        share: of the matched areas, for overlaps.
        estimate, low, high: mean over images and its interval.
        images, undefined: how many images the statistic is defined for, and is not.
        chance: its expectation for independent maps.
        shift_score, shift_p: test against toroidal shifts: mean standardised score and two-sided p-value; None for
            controls.
        other, exchange_p: mean with other images' maps in place of the second, and the one-sided permutation p-value of
            the pairing, over the first 200 images, since every pair is computed; None for controls.
    """

    variant: str
    first: str
    second: str
    statistic: str
    share: float | None
    estimate: float
    low: float
    high: float
    images: int
    undefined: int
    chance: float
    shift_score: float | None = None
    shift_p: float | None = None
    other: float | None = None
    exchange_p: float | None = None


def correlate(
    statistic: Correlation, first: Tensor, second: Tensor, confounds: Mapping[str, Tensor], names: tuple[str, str]
) -> Statistic:
    """One correlation of `(N, h, w)` maps, image by image."""
    if statistic == "partial_spearman":
        return partial_spearman(first, second, confounds, names)
    return (pearson if statistic == "pearson" else spearman)(first, second, names)


def association_rows(
    variant: str,
    pairs: Iterable[tuple[str, Tensor, str, Tensor]],
    confounds: Mapping[str, Tensor],
    shares: Sequence[float],
    inference: Inference,
) -> Iterator[AssociationRow]:
    """Every statistic of every pair `(name, maps, name, maps)`, with both tests; maps are `(N, h, w)` block means."""
    for first_name, first, second_name, second in pairs:
        names = (first_name, second_name)
        for statistic in CORRELATIONS:
            found = correlate(statistic, first, second, confounds, names)
            table = _correlations_across(statistic, first, second, confounds)
            if statistic == "partial_spearman":
                shifts = partial_spearman_shifts(first, second, confounds)
            else:
                shifts = (pearson_shifts if statistic == "pearson" else spearman_shifts)(first, second)
            yield _association_row(variant, names, statistic, None, 0.0, found, shifts, table, inference)
        for overlap in OVERLAPS:
            for share in shares:
                found = _OVERLAP[overlap](first, second, share, names)
                table = _overlaps_across(overlap, share, first, second)
                shifts = _OVERLAP_SHIFTS[overlap](first, second, share)
                chance = share / (2 - share) if overlap == "iou" else share
                yield _association_row(variant, names, overlap, share, chance, found, shifts, table, inference)


def control_row(
    variant: str, names: tuple[str, str], statistic: Correlation, values: Statistic, inference: Inference
) -> AssociationRow:
    """A correlation with its interval, without tests, as for a control."""
    found = inference.interval(values.values)
    return AssociationRow(
        variant, *names, statistic, None, found.estimate, found.low, found.high, found.images, found.undefined, 0.0
    )


@dataclass(frozen=True)
class Comparison:
    """Two conditions to be compared image by image: `(N,)` values each, NaN where undefined."""

    question: str
    first: str
    second: str
    first_values: np.ndarray
    second_values: np.ndarray


@dataclass(frozen=True)
class ComparisonRow:
    """A paired comparison over images.

    Attributes:
        question: what is compared.
        first, second: the conditions.
        first_mean, second_mean: over the images for which both are defined.
        difference, low, high: mean of first minus second, and its bootstrap interval.
        effect: effect size, the matched-pairs rank-biserial correlation.
        p_value, adjusted: of Wilcoxon's signed-rank test, two-sided, and the same adjusted by Holm's method over all
            comparisons.
        images, undefined: how many images have both values, and lack one.
    """

    question: str
    first: str
    second: str
    first_mean: float
    second_mean: float
    difference: float
    low: float
    high: float
    effect: float
    p_value: float
    adjusted: float
    images: int
    undefined: int


def comparison_rows(comparisons: Sequence[Comparison], inference: Inference) -> list[ComparisonRow]:
    """The comparisons with their tests, adjusted as one family."""
    keys = [f"{one.question}: {one.first} - {one.second}" for one in comparisons]
    tests = paired_tests(
        {key: (one.first_values, one.second_values) for key, one in zip(keys, comparisons, strict=True)}
    )
    rows = []
    for key, one in zip(keys, comparisons, strict=True):
        difference = one.first_values - one.second_values
        both = ~np.isnan(difference)
        found, test = inference.interval(difference), tests[key]
        means = [
            float(values[both].mean()) if both.any() else math.nan for values in (one.first_values, one.second_values)
        ]
        rows.append(
            ComparisonRow(
                one.question,
                one.first,
                one.second,
                means[0],
                means[1],
                found.estimate,
                found.low,
                found.high,
                test.effect,
                test.p_value,
                test.adjusted,
                found.images,
                found.undefined,
            )
        )
    return rows


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


def causal_rows(variant: str, rows: Sequence[RegionRow], inference: Inference) -> list[CausalRow]:
    """One row per share, region and budget."""
    found = []
    for share in dict.fromkeys(row.share for row in rows):
        for region in dict.fromkeys(row.region for row in rows):
            for budget in BUDGETS:
                own = [row for row in rows if (row.share, row.region, row.budget) == (share, region, budget)]
                gain = inference.interval(np.array([row.gain for row in own]))
                rate = rate_interval([float(row.flipped) for row in own], inference.level)
                distances = [row.distance for row in own if row.distance is not None]
                found.append(
                    CausalRow(
                        variant,
                        share,
                        region,
                        budget,
                        float(np.mean([row.mass for row in own])),
                        gain.estimate,
                        gain.low,
                        gain.high,
                        rate.estimate,
                        rate.low,
                        rate.high,
                        sum(not row.reached for row in own),
                        float(np.mean(distances)) if distances else None,
                    )
                )
    return found


def gains(rows: Sequence[RegionRow], names: Sequence[str], share: float, region: str, budget: str) -> np.ndarray:
    """`(N,)` shares of the full perturbation's gain in margin, in the order of the names."""
    found = {row.name: row.gain for row in rows if (row.share, row.region, row.budget) == (share, region, budget)}
    return np.array([found[name] for name in names])


def areas(rows: Sequence[CurveRow], names: Sequence[str], kind: str, order: str, by_energy: bool) -> np.ndarray:
    """`(N,)` areas under curves, in the order of the names."""
    found = {
        row.name: row.area_by_energy if by_energy else row.area
        for row in rows
        if (row.kind, row.order) == (kind, order)
    }
    return np.array([found[name] for name in names])


def _correlations_across(
    statistic: Correlation, first: Tensor, second: Tensor, confounds: Mapping[str, Tensor]
) -> np.ndarray:
    """`across_images` of a correlation, as one product of matrices; confounds are those of each map's own image."""
    first, second = first[:_EXCHANGED], second[:_EXCHANGED]
    if statistic == "partial_spearman":
        own = {name: maps[:_EXCHANGED] for name, maps in confounds.items()}
        residuals = partial_residuals(first, second, own, ("first", "second"), "ranks")
        a, b = residuals.first, residuals.second
    else:
        a, b = flattened(first, second)
        if statistic == "spearman":
            a, b = ranks(a), ranks(b)
    return standardised(a) @ standardised(b).T


def _overlaps_across(overlap: Overlap, share: float, first: Tensor, second: Tensor) -> np.ndarray:
    """`across_images` of an overlap, with a number also where it is undefined."""
    a, b = flattened(first[:_EXCHANGED], second[:_EXCHANGED])
    top = top_membership(b, share)
    if overlap == "iou":
        own = top_membership(a, share)
        return np.stack([np.minimum(row, top).sum(1) / np.maximum(row, top).sum(1) for row in own])
    return (peaks(a) if overlap == "pointing_game" else masses(a)) @ top.T


def _association_row(
    variant: str,
    names: tuple[str, str],
    statistic: str,
    share: float | None,
    chance: float,
    values: Statistic,
    shifts: np.ndarray,
    table: np.ndarray,
    inference: Inference,
) -> AssociationRow:
    found = inference.interval(values.values)
    shifted = shift_test(shifts, inference.seed, draws=inference.resamples)
    known = values.defined[: len(table)]
    table = np.where(known[:, None] & known[None], table, np.nan)
    exchanged = exchange_test(table, inference.seed, "greater", draws=inference.resamples)
    return AssociationRow(
        variant,
        *names,
        statistic,
        share,
        found.estimate,
        found.low,
        found.high,
        found.images,
        found.undefined,
        chance,
        shifted.score,
        shifted.p_value,
        exchanged.other,
        exchanged.p_value,
    )
