"""The similarity of two maps per image: correlations, partial correlations given confounds, and overlaps of top areas.

Nothing here gives a p-value: neighbouring pixels are dependent, so the image is the unit of inference
(`percep.explain.statistics.inference`). A value that is undefined is NaN and carries its reason, so that it can be
counted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats
from torch import Tensor
from torch.nn import functional

from percep.errors import InputError
from percep.validation.scalars import require_level

SHARES = (0.1, 0.2, 0.3)
"""The shares of the image, of equal area in both maps, that overlaps are reported for."""

Scores = Literal["ranks", "normal"]
"""What a map's values are replaced by: their ranks, or the normal quantiles of their ranks."""

# scipy's own limit: a deviation below it, relative to the mean, is rounding error.
_CONSTANT = float(np.finfo(np.float64).eps ** 0.75)
# Ranks whose residuals are below this share of their norm are a linear function of the confounds' ranks.
_EXPLAINED = 1e-9


@dataclass(frozen=True)
class Statistic:
    """One number per image.

    Attributes:
        values: `(B,)` float64, NaN where undefined.
        undefined: per image why its value is NaN ("gradcam is constant"), or None where it is defined.
    """

    values: np.ndarray
    undefined: tuple[str | None, ...]

    @property
    def defined(self) -> np.ndarray:
        """`(B,)` bool."""
        return np.array([reason is None for reason in self.undefined], dtype=bool)


def block_means(maps: Tensor, side: int) -> Tensor:
    """Maps averaged over `side x side` blocks, so that a statistic does not depend on the number of pixels.

    Blocks of about the SSIM window's size (8 pixels for 11 taps of sigma 1.5, whose weights fall to a tenth within 3.2
    pixels) leave values that depend little on their neighbours.

    Args:
        maps: `(B, H, W)`.
        side: of a block, in pixels, at least 1; blocks at the far borders are smaller where it does not divide H or W.

    Returns:
        `(B, ceil(H / side), ceil(W / side))` float64.

    Raises:
        InputError: another shape, or a side below 1.
    """
    if maps.ndim != 3 or side < 1:
        raise InputError(f"block means need maps (B, H, W) and a side of at least 1, got {tuple(maps.shape)}, {side}")
    return functional.avg_pool2d(maps.detach().double()[:, None], side, ceil_mode=True, count_include_pad=False)[:, 0]


def upsampled_blocks(blocks: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Maps `(B, *size)` that are constant in each block of `side x side` pixels, from its values `(B, h, w)`."""
    height, width = size
    return blocks.repeat_interleave(side, 1)[:, :height].repeat_interleave(side, 2)[:, :, :width]


def pearson(first: Tensor, second: Tensor, names: tuple[str, str] = ("first", "second")) -> Statistic:
    """Linear correlation of two stacks of maps `(B, H, W)`, in `[-1, 1]`; undefined where a map is constant.

    `names` are used in reasons. Raises `InputError` for shapes that differ.
    """
    a, b = flattened(first, second)
    return masked(correlation(a, b), reasons({names[0]: a, names[1]: b}))


def spearman(first: Tensor, second: Tensor, names: tuple[str, str] = ("first", "second")) -> Statistic:
    """Rank correlation of two stacks of maps `(B, H, W)`, in `[-1, 1]`, ties at their mean rank; see `pearson`."""
    a, b = flattened(first, second)
    return masked(correlation(ranks(a), ranks(b)), reasons({names[0]: a, names[1]: b}))


def partial_spearman(
    first: Tensor,
    second: Tensor,
    confounds: Mapping[str, Tensor],
    names: tuple[str, str] = ("first", "second"),
    scores: Scores = "ranks",
) -> Statistic:
    """Partial rank correlation given confounding maps, in `[-1, 1]`.

    Ranks of both maps are regressed on the ranks of all confounds by least squares, with a constant, and the residuals
    are correlated (Kendall, Biometrika 1942; Conover and Iman, The American Statistician 1981). A confound whose
    effect on ranks is not linear is taken out in part only, and a map that holds little else is left with noise.

    Ranks of jointly normal values are not quite linear in each other: where a confound explains half the variance of
    both maps and nothing else links them, 0.012 remains. It is small, and enough for a test over many images to
    reject, so tests take "normal" scores, with which nothing remains (van der Waerden; Liu, Lafferty, Wasserman, JMLR
    2009, on normal scores in Gaussian copulas).

    Args:
        first, second: `(B, H, W)`.
        confounds: by name, `(B, H, W)`, or `(H, W)` where it is the same for all images. A constant one, or one that
            repeats others, changes nothing.
        names: of the two maps, for reasons.
        scores: "ranks", or "normal" for normal quantiles in their place.

    Returns:
        Undefined where a map is constant, where its ranks are a linear function of the confounds' ranks, where
        something is not finite, or where there are no more values than confounds allow.

    Raises:
        InputError: shapes that differ, or no confounds.
    """
    residuals = partial_residuals(first, second, confounds, names, scores)
    return masked(correlation(residuals.first, residuals.second), residuals.undefined)


def iou(first: Tensor, second: Tensor, share: float, names: tuple[str, str] = ("first", "second")) -> Statistic:
    """Intersection over union of the top `share` of both maps, in `[0, 1]`: areas match whatever the maps' scales.

    With independent maps it is about `share / (2 - share)`. Ties at the threshold hold fractions of the area that is
    left (`top_membership`); intersection and union are sums of least and greatest memberships (Ruzicka's index).

    Args:
        first, second: `(B, H, W)`.
        share: in (0, 1).
        names: of the maps, for reasons.

    Raises:
        InputError: shapes that differ, or a share outside (0, 1).
    """
    a, b = flattened(first, second)
    top_a, top_b = top_membership(a, share), top_membership(b, share)
    ratio = np.minimum(top_a, top_b).sum(1) / np.maximum(top_a, top_b).sum(1)
    return masked(ratio, reasons({names[0]: a, names[1]: b}))


def pointing_game(
    first: Tensor, second: Tensor, share: float, names: tuple[str, str] = ("first", "second")
) -> Statistic:
    """Whether the maximum of the first map lies in the top `share` of the second: 0 or 1 (Zhang et al., ECCV 2016).

    Where several places hold the maximum, or the threshold falls on ties, the chance of a hit, in [0, 1]. With
    independent maps its mean is `share`. Arguments as for `iou`.
    """
    a, b = flattened(first, second)
    peak = peaks(a)
    return masked((peak * top_membership(b, share)).sum(1), reasons({names[0]: a, names[1]: b}))


def relevance_mass(
    first: Tensor, second: Tensor, share: float, names: tuple[str, str] = ("first", "second")
) -> Statistic:
    """Which share of the first map's sum lies in the top `share` of the second, in `[0, 1]`.

    (Arras, Osman, Samek, Information Fusion 2022: relevance mass accuracy.) With independent maps its mean is `share`,
    and so it is for a constant first map. Arguments as for `iou`; also undefined where the first map has negative
    values or is zero.
    """
    a, b = flattened(first, second)
    return masked((masses(a) * top_membership(b, share)).sum(1), mass_reasons(a, b, names))


def across_images(statistic: Callable[[Tensor, Tensor], Statistic], first: Tensor, second: Tensor) -> np.ndarray:
    """A statistic of every image's first map with every image's second: what `exchange_test` takes.

    Args:
        statistic: of two stacks `(B, H, W)`: `spearman`, or a function of two arguments made from another.
        first, second: `(B, H, W)`.

    Returns:
        `(B, B)` float64: `[i, j]` is of the first map of image i and the second of image j, NaN where undefined.
    """
    count = len(first)
    table = np.full((count, count), np.nan)
    places = np.arange(count)
    for offset in range(count):
        table[places, (places + offset) % count] = statistic(first, second.roll(-offset, 0)).values
    return table


def flattened(*maps: Tensor) -> list[np.ndarray]:
    """Stacks of maps as `(B, N)` float64 arrays. Raises `InputError` unless all are `(B, H, W)` of one shape."""
    shapes = {tuple(stack.shape) for stack in maps}
    if len(shapes) != 1 or maps[0].ndim != 3:
        listed = ", ".join(str(tuple(stack.shape)) for stack in maps)
        raise InputError(f"associations need stacks of maps of one shape (B, H, W), got {listed}")
    return [stack.detach().double().cpu().numpy().reshape(len(stack), -1) for stack in maps]


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along each row of `(B, N)`, ties at their mean rank, rows that are not finite NaN."""
    return np.asarray(stats.rankdata(values, axis=1, nan_policy="propagate"), dtype=np.float64)


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of rows of two `(B, N)` arrays, `(B,)`; NaN where a row is constant."""
    return np.clip((standardised(first) * standardised(second)).sum(1), -1, 1)


def standardised(values: np.ndarray) -> np.ndarray:
    """Rows of `(B, N)` with mean 0 and norm 1; NaN where they are constant or not finite."""
    finite = np.isfinite(values).all(1, keepdims=True)
    values = np.where(finite, values, 0.0)
    centred = values - values.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norm, out=np.full_like(centred, np.nan), where=finite & (norm > 0))


def top_membership(values: np.ndarray, share: float) -> np.ndarray:
    """Each value's membership of the top `share` of its row, `(B, N)` in [0, 1]; each row sums to round(share N).

    The membership is 1 above the threshold. Ties at it share the remaining area equally, so that no order of pixels is
    preferred: Grad-CAM may be zero over most of an image. At least one value is taken. Raises `InputError` for a share
    outside (0, 1).
    """
    share = require_level("share", share)
    count = max(1, round(share * values.shape[1]))
    threshold = -np.sort(-values, axis=1)[:, count - 1 : count]
    above, tied = values > threshold, values == threshold
    remaining = count - above.sum(1, keepdims=True)
    return above + tied * (remaining / np.maximum(tied.sum(1, keepdims=True), 1))


def peaks(values: np.ndarray) -> np.ndarray:
    """Where each row has its maximum, `(B, N)`: equal weights that sum to 1."""
    highest = values == values.max(1, keepdims=True)
    return highest / np.maximum(highest.sum(1, keepdims=True), 1)


def masses(values: np.ndarray) -> np.ndarray:
    """Rows of `(B, N)` over their sums; 0 where they are not finite, negative somewhere or zero."""
    usable = (np.isfinite(values) & (values >= 0)).all(1, keepdims=True)
    values = np.where(usable, values, 0.0)
    total = values.sum(1, keepdims=True)
    return np.divide(values, total, out=np.zeros_like(values), where=total > 0)


@dataclass(frozen=True)
class PartialResiduals:
    """The residuals of two maps' ranks after regression on the confounds' ranks.

    Attributes:
        first, second: `(B, N)`, residuals of the ranks; NaN rows where undefined.
        basis: `(B, N, K)`, orthonormal columns (zero where a confound adds nothing) that span the ranks of the
            confounds, all of mean 0.
        undefined: per image a reason or None.
    """

    first: np.ndarray
    second: np.ndarray
    basis: np.ndarray
    undefined: tuple[str | None, ...]


def partial_residuals(
    first: Tensor, second: Tensor, confounds: Mapping[str, Tensor], names: tuple[str, str], scores: Scores
) -> PartialResiduals:
    """The residuals that `partial_spearman` correlates; see there."""
    if not confounds:
        raise InputError("a partial correlation needs at least one confound")
    others = [maps.expand_as(first) if maps.ndim == 2 and first.ndim == 3 else maps for maps in confounds.values()]
    a, b, *rest = flattened(first, second, *others)
    named = dict(zip(confounds, rest, strict=True))
    undefined = list(reasons({names[0]: a, names[1]: b}))
    for i in range(len(a)):
        for name, values in named.items():
            if not np.isfinite(values[i]).all():
                undefined[i] = undefined[i] or f"confound {name} is not finite"
        if a.shape[1] <= len(named) + 2:
            undefined[i] = undefined[i] or f"{a.shape[1]} values do not allow for {len(named)} confounds"
    usable = np.array([reason is None for reason in undefined], dtype=bool)[:, None]

    def centred(values: np.ndarray) -> np.ndarray:
        order = ranks(np.where(usable, values, 0.0))
        if scores == "normal":
            order = stats.norm.ppf((order - 0.5) / order.shape[1])
        return order - order.mean(1, keepdims=True)

    basis = _orthonormal(np.stack([centred(values) for values in named.values()], 2))
    residuals = []
    for name, values in zip(names, (a, b), strict=True):
        scored = centred(values)
        residual = scored - (basis @ (basis.transpose(0, 2, 1) @ scored[..., None]))[..., 0]
        explained = np.linalg.norm(residual, axis=1) <= _EXPLAINED * np.linalg.norm(scored, axis=1)
        for i in np.flatnonzero(explained & usable[:, 0]).tolist():
            undefined[i] = undefined[i] or f"{name} is determined by the confounds"
        residuals.append(np.where(usable & ~explained[:, None], residual, np.nan))
    return PartialResiduals(residuals[0], residuals[1], basis, tuple(undefined))


def reasons(named: Mapping[str, np.ndarray]) -> tuple[str | None, ...]:
    """Per image the first defect of several `(B, N)` maps: not finite or constant; None where there is none."""
    found = [[_reason(name, row) for row in values] for name, values in named.items()]
    return tuple(next((reason for reason in image if reason is not None), None) for image in zip(*found, strict=True))


def mass_reasons(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> tuple[str | None, ...]:
    """Per image why `relevance_mass` is undefined, or None."""
    found: list[str | None] = []
    for row, other in zip(first, reasons({names[1]: second}), strict=True):
        if not np.isfinite(row).all():
            found.append(f"{names[0]} is not finite")
        elif (row < 0).any():
            found.append(f"{names[0]} has negative values")
        else:
            found.append(other if row.any() else f"{names[0]} is zero")
    return tuple(found)


def masked(values: np.ndarray, undefined: Sequence[str | None]) -> Statistic:
    """A `Statistic` whose values are NaN wherever there is a reason."""
    known = [math.nan if reason is not None else value for value, reason in zip(values, undefined, strict=True)]
    return Statistic(np.array(known, dtype=np.float64), tuple(undefined))


def _reason(name: str, row: np.ndarray) -> str | None:
    if not np.isfinite(row).all():
        return f"{name} is not finite"
    if np.linalg.norm(row - row.mean()) <= _CONSTANT * abs(row.mean()):
        return f"{name} is constant"
    return None


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """Orthonormal bases of the columns of `(B, N, K)`, `(B, N, K)` with zeros beyond their rank."""
    vectors, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    independent = sizes > 1e-10 * np.maximum(sizes[:, :1], np.finfo(np.float64).tiny)
    return np.asarray(vectors * independent[:, None, :])
