"""Inference over images: bootstrap intervals, paired tests and their correction. The image is the unit throughout.

Pixels of one image are dependent, so no test treats them as a sample: a statistic is one number per image, and images
are resampled or paired here, shifted or exchanged in `percep.explain.statistics.permutation`. Undefined values (NaN)
are left out of a test and counted in every result.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from percep.errors import InputError
from percep.validation.scalars import require_level

Alternative = Literal["two-sided", "greater", "less"]
Seed = int | np.random.Generator

_HELD = 10**6
"""Resampled numbers in memory at a time; results do not depend on it."""


@dataclass(frozen=True)
class Interval:
    """A mean over images with its confidence interval.

    Attributes:
        estimate: the mean over the images where the statistic is defined, NaN where there is none.
        low, high: bounds of the interval, NaN where there is none.
        method: "bca", "percentile" (where BCa is degenerate), "wilson" (rates), or "none" (fewer than two values).
        images: how many images the statistic is defined for.
        undefined: how many images it is undefined for.
    """

    estimate: float
    low: float
    high: float
    method: Literal["bca", "percentile", "wilson", "none"]
    images: int
    undefined: int


def bootstrap_interval(values: ArrayLike, seed: Seed, level: float = 0.95, resamples: int = 9999) -> Interval:
    """Bootstrap interval of a mean over images, by `scipy.stats.bootstrap`.

    Bias-corrected and accelerated (Efron, JASA 1987); the percentile interval where that is degenerate, as it is for
    values that are all alike. With fewer than some twenty images it is too narrow.

    Args:
        values: `(B,)`, one number per image, NaN where undefined.
        seed: of the resampling.
        level: of confidence, in (0, 1).
        resamples: of the images.

    Raises:
        InputError: values that are not one per image or are infinite, or a level outside (0, 1).
    """
    known, undefined = _known(values)
    level = require_level("level", level)
    if len(known) < 2:
        estimate = float(known.mean()) if len(known) else math.nan
        return Interval(estimate, math.nan, math.nan, "none", len(known), undefined)
    random = np.random.default_rng(seed)
    for method in ("bca", "percentile"):
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (known,),
                np.mean,
                confidence_level=level,
                n_resamples=resamples,
                method=method,
                vectorized=True,
                batch=max(1, _HELD // len(known)),
                rng=random,
            ).confidence_interval
        low, high = float(found.low), float(found.high)
        if math.isfinite(low) and math.isfinite(high):
            break
    return Interval(float(known.mean()), low, high, "bca" if method == "bca" else "percentile", len(known), undefined)


def rate_interval(hits: ArrayLike, level: float = 0.95) -> Interval:
    """Wilson's interval of a rate (Wilson, JASA 1927), which has a positive width also if all images are hits, or none.

    Args:
        hits: `(B,)`, 0 or 1 per image, NaN where undefined.
        level: of confidence, in (0, 1).

    Raises:
        InputError: other values, or a level outside (0, 1).
    """
    known, undefined = _known(hits)
    level = require_level("level", level)
    if not np.isin(known, (0, 1)).all():
        raise InputError("a rate needs 0 or 1 per image")
    if not len(known):
        return Interval(math.nan, math.nan, math.nan, "none", 0, undefined)
    low, high = proportion_confint(int(known.sum()), len(known), alpha=1 - level, method="wilson")
    return Interval(float(known.mean()), float(low), float(high), "wilson", len(known), undefined)


@dataclass(frozen=True)
class PairedTest:
    """Wilcoxon's signed-rank test of one pair of conditions, first minus second.

    Attributes:
        median: of the differences.
        effect: matched-pairs rank-biserial correlation in `[-1, 1]` (Kerby, Comprehensive Psychology 2014): rank sum in
            favour of the first minus rank sum against it, over their sum; 0 where no pair differs.
        p_value: of this test alone, NaN where no pair is defined.
        adjusted: p-value by Holm's method over the family.
        pairs: how many images both values are defined for.
        zeros: how many of these do not differ.
        undefined: how many images lack a value.
    """

    median: float
    effect: float
    p_value: float
    adjusted: float
    pairs: int
    zeros: int
    undefined: int


def paired_tests(
    conditions: Mapping[str, tuple[ArrayLike, ArrayLike]], alternative: Alternative = "two-sided"
) -> dict[str, PairedTest]:
    """Wilcoxon's signed-rank tests (Biometrics Bulletin 1945), corrected together by Holm's method (1979).

    By `scipy.stats.wilcoxon` with Pratt's treatment of zeros, so that images that do not differ count against a
    difference; exact without ties and zeros, or for up to 13 images. Holm's correction is over all tests that have a
    p-value.

    Args:
        conditions: by name, two `(B,)` arrays with one number per image, NaN where undefined; images correspond.
        alternative: "greater" where the first is expected to be the greater.

    Raises:
        InputError: no conditions, arrays of different lengths or with infinite values.
    """
    if not conditions:
        raise InputError("paired tests need at least one pair of conditions")
    tests: dict[str, PairedTest] = {}
    for name, (first, second) in conditions.items():
        one, other = (np.asarray(values, dtype=np.float64) for values in (first, second))
        if one.shape != other.shape:
            raise InputError(f"{name}: paired conditions need one value per image, got {one.shape} and {other.shape}")
        known, undefined = _known(one - other)
        tests[name] = _signed_ranks(known, undefined, alternative)
    adjusted = holm([test.p_value for test in tests.values()])
    return {
        name: PairedTest(**{**vars(test), "adjusted": float(value)})
        for (name, test), value in zip(tests.items(), adjusted, strict=True)
    }


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjustment (Scandinavian Journal of Statistics 1979), NaN where there is no p-value."""
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full_like(p_values, np.nan)
    known = ~np.isnan(p_values)
    tested = p_values[known]
    order = np.argsort(tested)
    stepped = np.maximum.accumulate(tested[order] * np.arange(len(tested), 0, -1)).clip(max=1)
    adjusted[known] = stepped[np.argsort(order)]
    return adjusted


def _known(values: ArrayLike) -> tuple[np.ndarray, int]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or np.isinf(values).any():
        raise InputError(f"one finite number per image is needed, NaN where undefined, got shape {values.shape}")
    return values[~np.isnan(values)], int(np.isnan(values).sum())


def _signed_ranks(differences: np.ndarray, undefined: int, alternative: Alternative) -> PairedTest:
    pairs, zeros = len(differences), int((differences == 0).sum())
    if not pairs:
        return PairedTest(math.nan, math.nan, math.nan, math.nan, 0, 0, undefined)
    if zeros == pairs:
        return PairedTest(0.0, 0.0, 1.0, math.nan, pairs, zeros, undefined)
    order = np.asarray(stats.rankdata(np.abs(differences)))
    favour, against = order[differences > 0].sum(), order[differences < 0].sum()
    p_value = stats.wilcoxon(differences, zero_method="pratt", alternative=alternative).pvalue
    effect = (favour - against) / (favour + against)
    median = float(np.median(differences))
    return PairedTest(median, float(effect), float(p_value), math.nan, pairs, zeros, undefined)
