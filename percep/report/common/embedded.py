"""Pictures inside a page, as data URIs.

Photographs are compressed with loss, the perturbation without: a page holds its positive and its negative part as
lossless pictures, which are composed with the compressed original, so that compression never looks like a perturbation.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.colors import LogNorm
from PIL import Image
from torch import Tensor

from percep.report.common.canvas import ColourScale
from percep.report.common.colours import ATTENTION_SCALE, amplification, amplified, dissimilarity, photograph
from percep.report.common.worst_place import REACH, span, worst_place

# WebP qualities at which 500 attacked photographs of 224x224 stay below 60 MB.
_PHOTOGRAPH, _DRAWING = 80, 60
_CUTOUT_SIDE = 6 * REACH + 3
"""Side of a cutout around a window, in pixels: three times the window's."""

# Shared by all images, so that they can be compared: 1 - SSIM, and multiples of the uniform share.
SSIM_SCALE = ColourScale(
    LogNorm(1e-6, 1e-1, clip=True),
    "magma",
    {1e-6: "0.999999", 1e-4: "0.9999", 1e-3: "0.999", 1e-2: "0.99", 1e-1: "0.9"},
)
BUDGET_SCALE = ColourScale(
    LogNorm(0.1, 100, clip=True), "viridis", {0.1: "0.1×", 1.0: "1×", 10.0: "10×", 100.0: "100×"}
)


@dataclass(frozen=True)
class Mark:
    """A rectangle on a picture, in percent of its sides."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Worst:
    """The window with the least SSIM, and its surroundings without loss.

    Attributes:
        row, column: the pixel in its middle.
        ssim: of the worst channel there.
        change: the largest change in the window, in levels of 255.
        width, height: of the cutouts, in pixels.
        original, adversarial: cutouts of the two images as data URIs.
        window: where the window is on a cutout.
        place: where it is on the whole image.
    """

    row: int
    column: int
    ssim: float
    change: int
    width: int
    height: int
    original: str = field(repr=False)
    adversarial: str = field(repr=False)
    window: Mark
    place: Mark


@dataclass(frozen=True)
class Layers:
    """An image and its adversarial version as data URIs.

    Attributes:
        width, height: of each picture, in pixels.
        original: the reference, compressed.
        brighter: the positive part of the perturbation, without loss.
        darker: its negative part, without loss, and clipped to the values of `original`.
        difference: the perturbation amplified by `factor`.
        largest: the largest change, in levels of 255.
        ssim: the SSIM map, on the scale shared by all images.
        worst: where SSIM is least; None where nothing was changed.
    """

    width: int
    height: int
    original: str = field(repr=False)
    brighter: str = field(repr=False)
    darker: str = field(repr=False)
    difference: str = field(repr=False)
    factor: int
    largest: int
    ssim: str = field(repr=False)
    worst: Worst | None


def layers(original: Tensor, adversarial: Tensor, ssim: Tensor) -> Layers:
    """Encodes two `(C, H, W)` images in `[0, 1]`, multiples of 1/255, and the SSIM map of the two."""
    perturbation = adversarial - original
    factor = amplification(perturbation)
    levels = np.rint(255 * photograph(perturbation))
    compressed = _encoded(photograph(original), quality=_PHOTOGRAPH)
    with Image.open(io.BytesIO(compressed)) as decoded:
        shown = np.asarray(decoded.convert("RGB")) / 255
    height, width = levels.shape[:2]
    return Layers(
        width=width,
        height=height,
        original=_webp_uri(compressed),
        brighter=_webp_uri(_encoded(levels.clip(0, 255) / 255)),
        darker=_webp_uri(_encoded((-levels / 255).clip(0, shown))),
        difference=webp_uri(amplified(perturbation, factor)),
        factor=factor,
        largest=int(np.abs(levels).max()),
        ssim=webp_uri(SSIM_SCALE.colours(dissimilarity(ssim))),
        worst=_worst(original, adversarial, ssim),
    )


def _worst(original: Tensor, adversarial: Tensor, ssim: Tensor) -> Worst | None:
    found = worst_place(original, adversarial, ssim)
    if found is None:
        return None
    height, width = original.shape[-2:]
    rows, columns = span(found.row, height, _CUTOUT_SIDE), span(found.column, width, _CUTOUT_SIDE)
    window = found.box(height, width)
    everything = (slice(0, height), slice(0, width))
    return Worst(
        row=found.row,
        column=found.column,
        ssim=found.ssim,
        change=round(255 * found.change),
        width=columns.stop - columns.start,
        height=rows.stop - rows.start,
        original=_webp_uri(_encoded(photograph(original[:, rows, columns]))),
        adversarial=_webp_uri(_encoded(photograph(adversarial[:, rows, columns]))),
        window=_mark(window, (rows, columns)),
        place=_mark(window, everything),
    )


def _mark(box: tuple[slice, slice], picture: tuple[slice, slice]) -> Mark:
    (top, height), (left, width) = (
        (100 * (inner.start - outer.start) / size, 100 * (inner.stop - inner.start) / size)
        for inner, outer in zip(box, picture, strict=True)
        for size in (outer.stop - outer.start,)
    )
    return Mark(*(round(value, 2) for value in (left, top, width, height)))


def webp_uri(colours: np.ndarray) -> str:
    """`(H, W, 3 or 4)` colours in `[0, 1]` as a data URI, compressed with loss."""
    return _webp_uri(_encoded(colours, quality=_DRAWING))


def data_uri(media_type: str, content: bytes) -> str:
    """A file as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class Legend:
    """A colour scale to show; ticks are positions in percent of the bar's length, with labels."""

    title: str
    note: str
    source: str
    ticks: Sequence[tuple[float, str]]


def ssim_legend() -> Legend:
    """Of `SSIM_SCALE`."""
    return _legend("SSIM", "worst channel, logarithmic in 1 − SSIM", SSIM_SCALE)


def gradcam_legend() -> Legend:
    """Of `ATTENTION_SCALE`."""
    return _legend("Grad-CAM", "of the original, relative to its maximum", ATTENTION_SCALE)


def budget_legend() -> Legend:
    """Of `BUDGET_SCALE`."""
    return _legend("Budget spent", "in multiples of the uniform share, logarithmic", BUDGET_SCALE)


def _legend(title: str, note: str, scale: ColourScale) -> Legend:
    values = np.asarray(scale.norm.inverse(np.linspace(0, 1, 256)))
    ticks = sorted((round(100 * float(scale.norm(value)), 2), label) for value, label in scale.ticks.items())
    return Legend(title, note, _webp_uri(_encoded(scale.colours(values[None]))), ticks)


def _encoded(colours: np.ndarray, quality: int | None = None) -> bytes:
    """`(H, W, 3 or 4)` colours in `[0, 1]` as a WebP, without loss unless a quality is given."""
    pixels = np.rint(255 * colours[..., :3]).astype(np.uint8)
    file = io.BytesIO()
    if quality is None:
        Image.fromarray(pixels).save(file, format="WEBP", lossless=True)
    else:
        Image.fromarray(pixels).save(file, format="WEBP", quality=quality)
    return file.getvalue()


def _webp_uri(picture: bytes) -> str:
    return data_uri("image/webp", picture)
