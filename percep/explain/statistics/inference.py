"""Inference over images: bootstrap intervals, paired tests and permutation tests. The image is the unit throughout.

Pixels of one image are dependent, so no test treats them as a sample: a statistic is one number per image, and images
are resampled, paired or shifted. Undefined values (NaN) are left out of a test and counted in every result.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from percep.errors import InputError
from percep.validation.scalars import require_level

Alternative = Literal["two-sided", "greater", "less"]
Seed = int | np.random.Generator

_TIED = 1e-9
"""Differences below this are rounding error."""
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
    if known.any():
        adjusted[known] = multipletests(p_values[known], method="holm")[1]
    return adjusted


@dataclass(frozen=True)
class ShiftTest:
    """A permutation test of a statistic against its values under toroidal shifts.

    Attributes:
        scores: `(B,)`, standardised effect sizes: the observed statistic minus the mean over its shifts, over their
            standard deviation; 0 where shifts change nothing, NaN where undefined.
        p_values: `(B,)`, permutation p-values: the share of all shifts, the identity included, that are at least as
            extreme.
        excess: `(B,)`, the observed statistic minus the mean over its shifts, in its own units.
        score: the mean of the scores over images, NaN where there is none.
        p_value: of the mean score, over all images at once.
        images: how many images the statistic is defined for.
        undefined: how many images it is undefined for.
    """

    scores: np.ndarray
    p_values: np.ndarray
    excess: np.ndarray
    score: float
    p_value: float
    images: int
    undefined: int


def shift_test(shifted: np.ndarray, seed: Seed, alternative: Alternative = "two-sided", draws: int = 9999) -> ShiftTest:
    """Tests whether two maps agree more than independent maps of the same autocorrelation: per image, and over images.

    Per image the p-value is exact over all shifts. Over images p-values are not combined: each image's statistic is
    standardised by the mean and the deviation over its own shifts, the scores are averaged, and the average is
    compared with `draws` averages in which every image is shifted at random, independently. Both are randomisation
    tests over a group (Hemerik and Goeman, TEST 2018), whose false-positive rate is at most nominal, for any number of
    images, when maps are stationary on the torus (see `toroidal_shifts` on maps that are not).

    Args:
        shifted: `(B, H, W)` of `toroidal_shifts`: `[b, 0, 0]` is the observed statistic, NaN where undefined.
        seed: of the draws.
        alternative: "greater" where agreement is expected.
        draws: of one shift per image.

    Raises:
        InputError: another shape.
    """
    if shifted.ndim != 3:
        raise InputError(f"a shift test needs statistics under all shifts, (B, H, W), got {shifted.shape}")
    orbit = shifted.reshape(len(shifted), -1)
    known = np.isfinite(orbit).all(1)
    orbit = np.where(known[:, None], orbit, 0.0)
    centred = orbit - orbit.mean(1, keepdims=True)
    # Equal values differ by rounding error, since they come from Fourier transforms.
    deviation = centred.std(1, keepdims=True)
    scores = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > _TIED)
    extreme = _extremeness(scores, alternative)
    p_values = (extreme >= extreme[:, :1] - _TIED).mean(1)
    mean, p_value = _mean_score(scores[known], seed, alternative, draws) if known.any() else (math.nan, math.nan)
    return ShiftTest(
        scores=np.where(known, scores[:, 0], np.nan),
        p_values=np.where(known, p_values, np.nan),
        excess=np.where(known, centred[:, 0], np.nan),
        score=mean,
        p_value=p_value,
        images=int(known.sum()),
        undefined=int((~known).sum()),
    )


def _mean_score(scores: np.ndarray, seed: Seed, alternative: Alternative, draws: int) -> tuple[float, float]:
    """The mean of the observed scores, the first of each row of `(B, N)`, and its Monte Carlo p-value."""
    random = np.random.default_rng(seed)
    count, shifts = scores.shape
    images, rows = np.arange(count), max(1, _HELD // count)
    sizes = [min(rows, draws - done) for done in range(0, draws, rows)]
    averages = [scores[images, random.integers(shifts, size=(size, count))].mean(1) for size in sizes]
    mean = float(scores[:, 0].mean())
    return mean, _p_value(mean, np.concatenate(averages), alternative)


@dataclass(frozen=True)
class ExchangeTest:
    """A permutation test of a statistic of maps of the same image against that of maps of different images.

    Attributes:
        own: the mean over images with their own maps, NaN where there are fewer than two.
        other: the mean over all pairs of different images, which is above chance if all maps tend to the centre.
        p_value: permutation p-value: the share of pairings whose mean is at least as extreme as `own`.
        images: how many images the statistic is defined for.
        undefined: how many images it is undefined for.
    """

    own: float
    other: float
    p_value: float
    images: int
    undefined: int


def exchange_test(
    table: np.ndarray, seed: Seed, alternative: Alternative = "two-sided", draws: int = 9999
) -> ExchangeTest:
    """Tests whether maps agree more with those of their own image than with those of other images.

    A permutation test over pairings. It does not assume stationary maps, and all pairings share what all images have in
    common, so prefer it where maps tend to the centre; but common causes within an image, such as its texture, count as
    agreement. A two-sided test measures deviations from the average over pairings.

    Args:
        table: `(B, B)` of `across_images`, with pairs of the same image on its diagonal, NaN where undefined.
        seed: of the pairings.
        alternative: "greater" where own maps are expected to agree more.
        draws: of random pairings; an image may get its own map.

    Raises:
        InputError: another shape.
    """
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise InputError(f"an exchange test needs a statistic for every pair of images, (B, B), got {table.shape}")
    known = np.isfinite(np.diagonal(table))
    count, undefined = int(known.sum()), int((~known).sum())
    if count < 2:
        return ExchangeTest(math.nan, math.nan, math.nan, count, undefined)
    table = table[np.ix_(known, known)]
    own, average = float(np.diagonal(table).mean()), float(table.mean())
    random = np.random.default_rng(seed)
    pairings = random.permuted(np.tile(np.arange(count), (draws, 1)), axis=1)
    p_value = _p_value(own - average, table[np.arange(count), pairings].mean(1) - average, alternative)
    other = (average * count - own) / (count - 1)
    return ExchangeTest(own, other, p_value, count, undefined)


def _p_value(observed: float, null: np.ndarray, alternative: Alternative) -> float:
    """The Monte Carlo p-value of a statistic given draws of its null distribution, the observed value among them."""
    extreme = _extremeness(null, alternative) >= _extremeness(np.array(observed), alternative) - _TIED
    return float((1 + extreme.sum()) / (1 + len(null)))


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


def _extremeness(scores: np.ndarray, alternative: Alternative) -> np.ndarray:
    if alternative == "two-sided":
        return np.abs(scores)
    return scores if alternative == "greater" else -scores
