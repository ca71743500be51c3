"""Who carries the association: its mean in two groups of photographs, for splits that are chosen before the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from percep.choices import STRATA
from percep.models.classes import IMAGENET_ANIMALS, IMAGENET_CLASSES
from percep.study.criteria import Claim
from percep.study.evidence import Evidence
from percep.study.tables import Inference, correlate

_LOW, _HIGH = "at most the median", "above the median"
_ANIMALS, _THINGS = "animals", "things"


@dataclass(frozen=True)
class StratumRow:
    """The association of the claim in one group of photographs.

    Attributes:
        split: one of `percep.choices.STRATA`.
        group: "at most the median" or "above the median"; of classes, "animals" or "things".
        threshold: the median; None for classes.
        estimate, low, high: mean over the group's photographs and its interval.
        images, undefined: how many photographs of the group the association is defined for, and is not.
        outside: photographs that belong to neither group, since the split is undefined for them.
        difference: mean of the split's first group minus that of the second; the same in both rows, as the next.
        p_value, adjusted: of Mann and Whitney's test of the two groups, two-sided, and the same adjusted by Holm's
            method over all tests of the study.
    """

    split: str
    group: str
    threshold: float | None
    estimate: float
    low: float
    high: float
    images: int
    undefined: int
    outside: int
    difference: float
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class _Split:
    """Two groups, each `(N,)` bool, by name; a photograph may be in none."""

    groups: Mapping[str, np.ndarray]
    threshold: float | None


def stratum_rows(
    evidence: Evidence, claim: Claim, splits: Sequence[str], first_class: int | None, inference: Inference
) -> list[StratumRow]:
    """Two rows per split, with one test; none for a split that is defined for no photograph.

    Args:
        evidence: of a variant.
        claim: whose association is meant.
        splits: of `percep.choices.STRATA`.
        first_class: index of the logit of ImageNet's first class; None where the classes are not its thousand.
        inference: of intervals. Each p-value is of one split alone until `percep.study.family` adjusts it.
    """
    pair = (claim.change, claim.attention)
    values = correlate(
        claim.statistic, evidence.changes[pair[0]], evidence.attention[pair[1]], evidence.confounds, pair
    ).values
    rows: list[StratumRow] = []
    for name in splits:
        split = _SPLITS[name](evidence, claim, first_class)
        if any(members.any() for members in split.groups.values()):
            rows += _rows(name, split, values, inference)
    return rows


def _rows(name: str, split: _Split, values: np.ndarray, inference: Inference) -> list[StratumRow]:
    groups = {group: values[members] for group, members in split.groups.items()}
    first, second = (found[~np.isnan(found)] for found in groups.values())
    outside = len(values) - sum(len(found) for found in groups.values())
    tested = bool(len(first) and len(second))
    difference = float(first.mean() - second.mean()) if tested else np.nan
    p_value = float(stats.mannwhitneyu(first, second).pvalue) if tested else np.nan
    rows = []
    for group, found in groups.items():
        mean = inference.interval(found)
        interval = (mean.estimate, mean.low, mean.high, mean.images, mean.undefined)
        rows.append(StratumRow(name, group, split.threshold, *interval, outside, difference, p_value, np.nan))
    return rows


def _by_attended_area(evidence: Evidence, claim: Claim, _: int | None) -> _Split:
    """By the share of blocks where the attention map exceeds half of its maximum; undefined where it is zero."""
    maps = evidence.attention[claim.attention].double().flatten(1).numpy()
    highest = maps.max(1, keepdims=True)
    return _at_median(np.where(highest[:, 0] > 0, (maps > highest / 2).mean(1), np.nan))


def _by_confidence(evidence: Evidence, _: Claim, __: int | None) -> _Split:
    """By the probability of the label before the attack."""
    known = [np.nan if value is None else value for value in evidence.confidences]
    return _at_median(np.array(known, dtype=np.float64))


def _by_class_group(evidence: Evidence, _: Claim, first_class: int | None) -> _Split:
    """Animals against everything else, by ImageNet's labels."""
    if first_class is None:
        return _Split({_ANIMALS: np.zeros(0, bool), _THINGS: np.zeros(0, bool)}, None)
    classes = np.array([-1 if label is None else label - first_class for label in evidence.labels])
    animals = (classes >= 0) & (classes < IMAGENET_ANIMALS)
    return _Split({_ANIMALS: animals, _THINGS: (classes >= IMAGENET_ANIMALS) & (classes < IMAGENET_CLASSES)}, None)


def _at_median(values: np.ndarray) -> _Split:
    known = values[~np.isnan(values)]
    median = float(np.median(known)) if len(known) else np.nan
    return _Split({_LOW: values <= median, _HIGH: values > median}, median)


_SPLITS: Mapping[str, Callable[[Evidence, Claim, int | None], _Split]] = dict(
    zip(STRATA, (_by_attended_area, _by_confidence, _by_class_group), strict=True)
)
