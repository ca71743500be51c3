"""How far two maps of one image agree, with the image's texture next to them as the confounder."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import Tensor

from percep.errors import InputError
from percep.ssim import variance
from percep.windows import Window


@dataclass(frozen=True)
class Association:
    """Association of two maps over the pixels of one image.

    Attributes:
        pearson: linear correlation in `[-1, 1]`, NaN where it is undefined.
        spearman: rank correlation in `[-1, 1]`, NaN where it is undefined.
        undefined: why both are NaN ("gradcam is constant"), or None where they are defined.
    """

    pearson: float
    spearman: float
    undefined: str | None = None


@dataclass(frozen=True)
class Associations:
    """The three associations of one image, to be read together.

    `dissimilarity` is 1 - SSIM, `texture` the local standard deviation. A perturbation inside an SSIM ball
    follows the texture whatever the classifier looks at, so the first says little without the other two.
    """

    dissimilarity_gradcam: Association
    dissimilarity_texture: Association
    gradcam_texture: Association


def local_standard_deviation(images: Tensor) -> Tensor:
    """Texture: the standard deviation in SSIM's window (11 taps, sigma 1.5), averaged over channels.

    `(B, C, H, W)` images in `[0, 1]` to `(B, H, W)` float64 in `[0, 1/2]`. Raises `InputError` for sides of
    less than 6 pixels.
    """
    return variance(Window.gaussian(), images.double()).sqrt().mean(1)


def associations(dissimilarity: Tensor, gradcam: Tensor, texture: Tensor) -> tuple[Associations, ...]:
    """Pearson and Spearman correlations between three maps, image by image.

    Neighbouring pixels are dependent, so no p-value is given: what varies independently is the image.

    Args:
        dissimilarity: `(B, H, W)`, 1 - SSIM, averaged over channels.
        gradcam: `(B, H, W)`.
        texture: `(B, H, W)`, `local_standard_deviation` of the reference.

    Raises:
        InputError: shapes that differ.
    """
    stacks = (dissimilarity, gradcam, texture)
    if dissimilarity.ndim != 3 or not dissimilarity.shape == gradcam.shape == texture.shape:
        shapes = ", ".join(str(tuple(maps.shape)) for maps in stacks)
        raise InputError(f"associations need three stacks of maps of one shape (B, H, W), got {shapes}")
    planes = zip(*(maps.detach().double().cpu().numpy() for maps in stacks), strict=True)
    return tuple(
        Associations(
            _associate("dissimilarity", loss, "gradcam", cam),
            _associate("dissimilarity", loss, "texture", deviation),
            _associate("gradcam", cam, "texture", deviation),
        )
        for loss, cam, deviation in planes
    )


def _associate(first_name: str, first: np.ndarray, second_name: str, second: np.ndarray) -> Association:
    for name, values in ((first_name, first), (second_name, second)):
        if (defect := _defect(values)) is not None:
            return Association(math.nan, math.nan, f"{name} is {defect}")
    return Association(
        float(stats.pearsonr(first.ravel(), second.ravel()).statistic),
        float(stats.spearmanr(first.ravel(), second.ravel()).statistic),
    )


def _defect(values: np.ndarray) -> str | None:
    if not np.isfinite(values).all():
        return "not finite"
    # scipy's own limit, below which a correlation is made of rounding.
    deviation = np.linalg.norm(values - values.mean())
    if deviation <= np.finfo(values.dtype).eps ** 0.75 * abs(values.mean()):
        return "constant"
    return None
