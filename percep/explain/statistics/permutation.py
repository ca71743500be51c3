"""Permutation tests over images: maps against their toroidal shifts, and against the maps of other images.

Several statistics of the same images share their draws. Draws have two stages, since a p-value can be no less than
1 / (draws + 1): where fewer than `ENOUGH` of the first draws are as extreme as the observed value, `refined` new draws
take their place. The p-value is as valid as that of one stage. At levels above (1 + ENOUGH) / (1 + draws) it rejects
only where the first draws do, and below that only where the second do.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from percep.errors import InputError
from percep.explain.statistics.inference import Alternative, Seed

Choice = Callable[[np.random.Generator, int], np.ndarray]

ENOUGH = 100
"""As extreme draws after which a p-value is known well enough."""

_TIED = 1e-9
"""Differences below this are rounding error."""
_HELD = 10**6
"""Drawn numbers in memory at a time; results do not depend on it."""
_ROUNDED = 1e-6
"""Means of float32 numbers of at most 1 that differ by less are taken for equal."""
_LANES = 16
"""Statistics are summed in multiples of so many, which is several times as fast."""


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
    return shift_tests([shifted], seed, alternative, draws)[0]


def shift_tests(
    shifted: Sequence[np.ndarray],
    seed: Seed,
    alternative: Alternative = "two-sided",
    draws: int = 9999,
    refined: int = 0,
) -> list[ShiftTest]:
    """`shift_test` of several statistics of the same images, with shared draws.

    Args:
        shifted: as for `shift_test`, of each statistic.
        seed, alternative, draws: as there.
        refined: draws of the second stage, of statistics that few of the first are as extreme as.

    Raises:
        InputError: another shape, or shapes that differ.
    """
    scored = [_scored(values, alternative) for values in shifted]
    tests = [test for test, _ in scored]
    for places, known in _alike([~np.isnan(test.scores) for test in tests]):
        if not known.any():
            continue
        table = np.stack([scored[place][1][known] for place in places], 2)
        means = table[:, 0].mean(0)

        def choose(random: np.random.Generator, size: int, shape: tuple[int, ...] = table.shape) -> np.ndarray:
            return random.integers(shape[1], size=(size, shape[0]))

        p_values = _p_values(table, means, choose, seed, alternative, draws, refined)
        for place, mean, p_value in zip(places, means.tolist(), p_values.tolist(), strict=True):
            tests[place] = replace(tests[place], score=mean, p_value=p_value)
    return tests


def _scored(shifted: np.ndarray, alternative: Alternative) -> tuple[ShiftTest, np.ndarray]:
    """A test of each image alone, and the standardised scores under all shifts, `(B, N)`, the observed ones first."""
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
    test = ShiftTest(
        scores=np.where(known, scores[:, 0], np.nan),
        p_values=np.where(known, p_values, np.nan),
        excess=np.where(known, centred[:, 0], np.nan),
        score=math.nan,
        p_value=math.nan,
        images=int(known.sum()),
        undefined=int((~known).sum()),
    )
    return test, scores


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
    return exchange_tests([table], seed, alternative, draws)[0]


def exchange_tests(
    tables: Sequence[np.ndarray],
    seed: Seed,
    alternative: Alternative = "two-sided",
    draws: int = 9999,
    refined: int = 0,
) -> list[ExchangeTest]:
    """`exchange_test` of several statistics of the same images, with shared pairings; `refined` as in `shift_tests`.

    Raises:
        InputError: another shape, or shapes that differ.
    """
    for table in tables:
        if table.ndim != 2 or table.shape[0] != table.shape[1]:
            raise InputError(f"an exchange test needs a statistic for every pair of images, (B, B), got {table.shape}")
    tests: list[ExchangeTest | None] = [None] * len(tables)
    for places, known in _alike([np.isfinite(np.diagonal(table)) for table in tables]):
        count, undefined = int(known.sum()), int((~known).sum())
        own, other, p_values = np.full((3, len(places)), math.nan)
        if count >= 2:
            table = np.stack([tables[place][np.ix_(known, known)] for place in places], 2)
            average = table.mean((0, 1))
            own = np.diagonal(table).mean(1)
            other = (average * count - own) / (count - 1)
            p_values = _p_values(table - average, own - average, _pairings(count), seed, alternative, draws, refined)
        for i, place in enumerate(places):
            tests[place] = ExchangeTest(float(own[i]), float(other[i]), float(p_values[i]), count, undefined)
    return [test for test in tests if test is not None]


def _pairings(count: int) -> Choice:
    def choose(random: np.random.Generator, size: int) -> np.ndarray:
        return random.permuted(np.tile(np.arange(count), (size, 1)), axis=1)

    return choose


def _alike(masks: Sequence[np.ndarray]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Places of equal masks, and the mask."""
    groups: dict[bytes, list[int]] = {}
    for place, mask in enumerate(masks):
        groups.setdefault(mask.tobytes(), []).append(place)
    for places in groups.values():
        yield places, masks[places[0]]


def _p_values(
    table: np.ndarray,
    observed: np.ndarray,
    choose: Choice,
    seed: Seed,
    alternative: Alternative,
    draws: int,
    refined: int,
) -> np.ndarray:
    """Monte Carlo p-values of means over images, `(T,)`.

    Args:
        table: `(B, K, T)`, what each of K choices gives each image, by statistic.
        observed: `(T,)`, means that are among those of the choices.
        choose: of a generator and a size, `(size, B)` choices.
        seed, alternative: of the tests.
        draws, refined: of both stages; no second one if it has no more draws.
    """
    random = np.random.default_rng(seed)
    extreme = _count(table, observed, choose, random, alternative, draws)
    p_values = (1 + extreme) / (1 + draws)
    few = extreme < ENOUGH
    if refined > draws and few.any():
        chosen = np.ascontiguousarray(table[:, :, few])
        extreme = _count(chosen, observed[few], choose, random, alternative, refined)
        p_values[few] = (1 + extreme) / (1 + refined)
    return p_values


def _count(
    table: np.ndarray,
    observed: np.ndarray,
    choose: Choice,
    random: np.random.Generator,
    alternative: Alternative,
    draws: int,
) -> np.ndarray:
    """How many of `draws` means are at least as extreme as the observed ones, `(T,)`."""
    images, choices, tests = table.shape
    scale = np.maximum(np.abs(table).max((0, 1)), np.finfo(np.float64).tiny)
    padded = torch.zeros(images * choices, -(-tests // _LANES) * _LANES)
    padded[:, :tests] = torch.from_numpy((table / scale).reshape(images * choices, tests))
    first = np.arange(images) * choices
    limit = _extremeness(observed / scale, alternative) - _ROUNDED
    rows = max(1, _HELD // images)
    extreme = np.zeros(tests, dtype=np.int64)
    for done in range(0, draws, rows):
        places = torch.from_numpy(choose(random, min(rows, draws - done)) + first)
        means = functional.embedding_bag(places, padded, mode="sum").numpy()[:, :tests] / images
        extreme += (_extremeness(means, alternative) >= limit).sum(0)
    return extreme


def _extremeness(scores: np.ndarray, alternative: Alternative) -> np.ndarray:
    if alternative == "two-sided":
        return np.abs(scores)
    return scores if alternative == "greater" else -scores
