"""The correlations of 1 - SSIM, Grad-CAM and texture, the confounder of the first two, per image."""

from dataclasses import dataclass

from torch import Tensor

from percep.errors import InputError
from percep.explain.statistics.similarity import pearson, spearman


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
    is correlated with texture whatever the model, so the first says little without the other two.
    """

    dissimilarity_gradcam: Association
    dissimilarity_texture: Association
    gradcam_texture: Association


def associations(dissimilarity: Tensor, gradcam: Tensor, texture: Tensor) -> tuple[Associations, ...]:
    """Pearson and Spearman correlations between three maps, image by image.

    Neighbouring pixels are dependent, so no p-value is given: the image is the unit of inference.

    Args:
        dissimilarity: `(B, H, W)`, 1 - SSIM, averaged over channels.
        gradcam: `(B, H, W)`.
        texture: `(B, H, W)`, `percep.explain.local_standard_deviation` of the reference.

    Raises:
        InputError: shapes that differ.
    """
    stacks = (dissimilarity, gradcam, texture)
    if dissimilarity.ndim != 3 or not dissimilarity.shape == gradcam.shape == texture.shape:
        shapes = ", ".join(str(tuple(maps.shape)) for maps in stacks)
        raise InputError(f"associations need three stacks of maps of one shape (B, H, W), got {shapes}")
    return tuple(
        Associations(*three)
        for three in zip(
            _associate(("dissimilarity", dissimilarity), ("gradcam", gradcam)),
            _associate(("dissimilarity", dissimilarity), ("texture", texture)),
            _associate(("gradcam", gradcam), ("texture", texture)),
            strict=True,
        )
    )


def _associate(first: tuple[str, Tensor], second: tuple[str, Tensor]) -> list[Association]:
    names = (first[0], second[0])
    linear, ranked = pearson(first[1], second[1], names), spearman(first[1], second[1], names)
    values = zip(linear.values.tolist(), ranked.values.tolist(), linear.undefined, strict=True)
    return [Association(*image) for image in values]
