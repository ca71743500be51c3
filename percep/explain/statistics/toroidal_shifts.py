"""The statistics of `similarity` under every toroidal shift of the first map, by Fourier transforms.

A toroidal shift preserves a map's values and its autocorrelation, and removes its relation to the second map: the null
distribution for maps of this smoothness. Each function returns `(B, H, W)`: at `[b, i, j]` the statistic with the first
map rolled down by i rows and right by j columns, so `[b, 0, 0]` is the observed one. NaN where undefined.

The reference distribution is exact for maps that are stationary on the torus. Where they are stationary but not
periodic the error is small, and smaller for finer maps: at a nominal 5%, crops of Gaussian fields on 28 x 28 blocks
(white noise smoothed by a Gaussian of deviation s) were rejected 5 to 7% of the time for s = 1.5 blocks and 5 to 10%
for s = 3. Many maps are greater in the centre: two such maps agree more than shifted ones whatever the images. Use the
distance from the centre as a confound (`partial_spearman_shifts`), or compare with other images' maps
(`percep.explain.statistics.permutation.exchange_test`), which does not assume stationary maps.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from percep.explain.statistics.similarity import (
    Scores,
    flattened,
    mass_reasons,
    masses,
    partial_residuals,
    peaks,
    ranks,
    reasons,
    standardised,
    top_membership,
)

_NAMES = ("first", "second")
_TINY = 1e-12


def pearson_shifts(first: Tensor, second: Tensor) -> np.ndarray:
    """`pearson` of `(B, H, W)` maps under all shifts, `(B, H, W)`."""
    a, b = flattened(first, second)
    values = _products(standardised(a), standardised(b), first.shape)
    return _masked(np.clip(values, -1, 1), reasons({"first": a, "second": b}))


def spearman_shifts(first: Tensor, second: Tensor) -> np.ndarray:
    """`spearman` of `(B, H, W)` maps under all shifts, `(B, H, W)`."""
    a, b = flattened(first, second)
    values = _products(standardised(ranks(a)), standardised(ranks(b)), first.shape)
    return _masked(np.clip(values, -1, 1), reasons({"first": a, "second": b}))


def partial_spearman_shifts(
    first: Tensor, second: Tensor, confounds: Mapping[str, Tensor], scores: Scores = "normal"
) -> np.ndarray:
    """`partial_spearman` with the first map's residuals shifted, `(B, H, W)`.

    The confounds are not shifted. The first map's residuals are shifted, regressed on the confounds again, and
    correlated with the second map's residuals: the scheme of Freedman and Lane (Journal of Business and Economic
    Statistics 1983) with shifts for permutations. Arguments as for `partial_spearman`, which says why scores are normal
    here.
    """
    parts = partial_residuals(first, second, confounds, _NAMES, scores)
    shape = first.shape
    moved, fixed = standardised(parts.first), standardised(parts.second)
    explained = np.zeros(tuple(shape))
    for column in range(parts.basis.shape[2]):
        explained += _products(moved, parts.basis[:, :, column], shape) ** 2
    remaining = np.sqrt(np.clip(1 - explained, 0, None))
    products = _products(moved, fixed, shape)
    values = np.divide(products, remaining, out=np.zeros_like(products), where=remaining > _TINY)
    return _masked(np.clip(values, -1, 1), parts.undefined)


def iou_shifts(first: Tensor, second: Tensor, share: float) -> np.ndarray:
    """`iou` under all shifts, `(B, H, W)`; arguments as there."""
    a, b = flattened(first, second)
    top_a, top_b = top_membership(a, share), top_membership(b, share)
    # The minimum of two memberships is the integral over levels of the overlap of their level sets. Ties give each map
    # one level below 1, so the integral has three steps.
    levels = np.stack([_tie_level(top_a), _tie_level(top_b), np.ones(len(a))], 1)
    levels.sort(axis=1)
    heights = np.diff(levels, axis=1, prepend=0.0)
    shared = sum(
        heights[:, k, None, None]
        * _products(top_a >= levels[:, k : k + 1] - _TINY, top_b >= levels[:, k : k + 1] - _TINY, first.shape)
        for k in range(3)
    )
    union = (top_a.sum(1) + top_b.sum(1))[:, None, None] - shared
    return _masked(shared / union, reasons({"first": a, "second": b}))


def pointing_game_shifts(first: Tensor, second: Tensor, share: float) -> np.ndarray:
    """`pointing_game` under all shifts, `(B, H, W)`; arguments as there."""
    a, b = flattened(first, second)
    return _masked(_products(peaks(a), top_membership(b, share), first.shape), reasons({"first": a, "second": b}))


def relevance_mass_shifts(first: Tensor, second: Tensor, share: float) -> np.ndarray:
    """`relevance_mass` under all shifts, `(B, H, W)`; arguments as there."""
    a, b = flattened(first, second)
    values = _products(masses(a), top_membership(b, share), first.shape)
    return _masked(values, mass_reasons(a, b, _NAMES))


def _products(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Inner products of two `(B, N)` arrays as maps of `shape`, under all shifts of the first: `(B, H, W)`."""
    planes = [np.nan_to_num(values.astype(np.float64)).reshape(tuple(shape)) for values in (first, second)]
    spectra = [np.fft.rfft2(plane) for plane in planes]
    return np.fft.irfft2(np.conj(spectra[0]) * spectra[1], s=tuple(shape[-2:]))


def _tie_level(membership: np.ndarray) -> np.ndarray:
    """The membership of each row's ties, `(B,)`; 1 where there are none."""
    return np.where(membership > 0, membership, 1.0).min(1)


def _masked(values: np.ndarray, undefined: tuple[str | None, ...]) -> np.ndarray:
    unknown = np.array([reason is not None for reason in undefined], dtype=bool)
    return np.where(unknown[:, None, None], np.nan, values)
