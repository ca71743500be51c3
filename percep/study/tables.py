"""The tables over all photographs: associations with their tests, and paired comparisons."""

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
    iou,
    iou_shifts,
    paired_tests,
    partial_spearman,
    partial_spearman_shifts,
    pearson,
    pearson_shifts,
    pointing_game,
    pointing_game_shifts,
    relevance_mass,
    relevance_mass_shifts,
    spearman,
    spearman_shifts,
)
from percep.explain.statistics.permutation import exchange_tests, shift_tests
from percep.explain.statistics.similarity import (
    flattened,
    masses,
    partial_residuals,
    peaks,
    ranks,
    standardised,
    top_membership,
)

Overlap = Literal["iou", "pointing_game", "relevance_mass"]

OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)

_EXCHANGED = 200
"""Images whose maps are exchanged; all pairs of them are compared."""
_REFINED = 20

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
    """How intervals and tests are computed.

    Attributes:
        seed: of every resampling.
        level: of confidence, of intervals.
        resamples: of the photographs of an interval, and draws of a permutation test.
    """

    seed: int
    level: float
    resamples: int

    @property
    def refined(self) -> int:
        """Draws of a permutation test whose p-value is small: 20 times as many as resamples.

        Holm's correction over T tests compares the least p-value with (1 - level) / T. With the 9,999 resamples of
        study=full these are the 20 T / (1 - level) draws that p-values of that size need, for 500 tests at 0.95.
        """
        return _REFINED * self.resamples

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
        shift_adjusted, exchange_adjusted: both p-values adjusted by Holm's method over all tests of the study, by
            `percep.study.family`; None before.
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
    shift_adjusted: float | None = None
    exchange_adjusted: float | None = None


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
        measured = [*_correlated(first, second, confounds, names), *_overlapping(first, second, shares, names)]
        shifted = shift_tests(
            [one.shifts for one in measured], inference.seed, "two-sided", inference.resamples, inference.refined
        )
        exchanged = exchange_tests(
            [one.table for one in measured], inference.seed, "greater", inference.resamples, inference.refined
        )
        for one, by_shifts, by_pairs in zip(measured, shifted, exchanged, strict=True):
            found = inference.interval(one.values.values)
            yield AssociationRow(
                variant,
                *names,
                one.statistic,
                one.share,
                found.estimate,
                found.low,
                found.high,
                found.images,
                found.undefined,
                one.chance,
                by_shifts.score,
                by_shifts.p_value,
                by_pairs.other,
                by_pairs.p_value,
            )


@dataclass(frozen=True)
class _Measured:
    """A statistic of a pair of maps: per image, under all shifts `(N, h, w)`, and of all pairs of images."""

    statistic: str
    share: float | None
    chance: float
    values: Statistic
    shifts: np.ndarray
    across: np.ndarray

    @property
    def table(self) -> np.ndarray:
        """What `exchange_test` takes, of the first images."""
        known = self.values.defined[: len(self.across)]
        return np.where(known[:, None] & known[None], self.across, np.nan)


def _correlated(
    first: Tensor, second: Tensor, confounds: Mapping[str, Tensor], names: tuple[str, str]
) -> Iterator[_Measured]:
    for statistic in CORRELATIONS:
        found = correlate(statistic, first, second, confounds, names)
        table = _correlations_across(statistic, first, second, confounds)
        if statistic == "partial_spearman":
            shifts = partial_spearman_shifts(first, second, confounds)
        else:
            shifts = (pearson_shifts if statistic == "pearson" else spearman_shifts)(first, second)
        yield _Measured(statistic, None, 0.0, found, shifts, table)


def _overlapping(first: Tensor, second: Tensor, shares: Sequence[float], names: tuple[str, str]) -> Iterator[_Measured]:
    for overlap in OVERLAPS:
        for share in shares:
            found = _OVERLAP[overlap](first, second, share, names)
            table = _overlaps_across(overlap, share, first, second)
            shifts = _OVERLAP_SHIFTS[overlap](first, second, share)
            chance = share / (2 - share) if overlap == "iou" else share
            yield _Measured(overlap, share, chance, found, shifts, table)


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
        p_value, adjusted: of Wilcoxon's signed-rank test, two-sided, and the same adjusted by Holm's method: over all
            tests of the study in its `Findings`, over the comparisons alone in `comparison_rows`.
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
