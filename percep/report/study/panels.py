"""A figure of photographs chosen by a rule: each before and after, its SSIM map, and Grad-CAM of both."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from percep.report.common.canvas import ColourScale, printable
from percep.report.common.colours import ATTENTION_SCALE, photograph
from percep.report.common.embedded import SSIM_SCALE
from percep.report.common.plot import LIGHT, save_figure, themed
from percep.report.study.gallery import StudyExhibit, attention_colours
from percep.study import Claim, Evidence, Findings
from percep.study.criteria import display_name
from percep.study.photographs import association_key, values_by_name

QUANTILES = {"minimum": 0.0, "maximum": 1.0, "median": 0.5, "lower quartile": 0.25, "upper quartile": 0.75}
"""Of the association over photographs: where the figure takes its photographs; where two are
one photograph's, the first counts."""

_GRADCAMS = ("gradcam", "adversarial", "adversarial_new_class")
_TITLES = ("Original", "Adversarial", "SSIM map", "Grad-CAM\nbefore", "Grad-CAM\nafter", "Grad-CAM\nnew class")
_NOTE = (
    "Grad-CAM before: of the label, of the original. After: of the label, of the adversarial image, on the same "
    "scale. New class: of the class that the adversarial image is taken for, of that image."
)

# Pixels, at `_DPI`. A picture of the usual 224 pixels is not made smaller.
_SIDE, _GAP, _MARGIN, _CAPTION, _HEAD, _FOOT = 228, 12, 18, 50, 182, 266
_DPI = 240
_SIZE = 9.0
"""Of all text, in points."""
_LINE = 86
"""Characters of the rule's and of the note's lines."""


@dataclass(frozen=True)
class Choice:
    """A photograph of the figure.

    Attributes:
        name: of the photograph.
        quantile: of the association over photographs that it is at, one of `QUANTILES`.
        association: its own.
    """

    name: str
    quantile: str
    association: float


@dataclass(frozen=True)
class PanelRow:
    """A row of the figure.

    Attributes:
        choice: which photograph.
        before, after: names of the classes.
        pictures: `(H, W, 3)` colours in [0, 1] under each of the figure's titles; None for one that is not there.
    """

    choice: Choice
    before: str
    after: str
    pictures: tuple[np.ndarray | None, ...] = field(repr=False)


def associations_of(findings: Findings) -> dict[str, float]:
    """The association of the claim in the main variant, by the names of the photographs it is defined for."""
    claim = findings.claim
    key = association_key(claim.statistic, claim.change, claim.attention)
    return values_by_name(findings.photographs, findings.sweep[0].name, key)


def chosen_photographs(associations: Mapping[str, float]) -> list[Choice]:
    """The photographs whose association, by name, is at each of `QUANTILES`.

    Of N photographs, in order of association and name, that at q is number q (N - 1), counted from 0 and rounded; none
    is chosen twice.
    """
    ordered = sorted(associations, key=lambda name: (associations[name], name))
    places: dict[int, str] = {}
    for quantile, share in QUANTILES.items() if ordered else ():
        places.setdefault(int(share * (len(ordered) - 1) + 0.5), quantile)
    return [
        Choice(ordered[place], quantile, associations[ordered[place]]) for place, quantile in sorted(places.items())
    ]


def rule(claim: Claim, count: int) -> str:
    """How `chosen_photographs` chooses among so many, in a sentence without its full stop."""
    what = f"{display_name(claim.statistic)} of {display_name(claim.change)} with {display_name(claim.attention)}"
    return f"Photographs at the minimum, quartiles and maximum of {what} over {count} photographs"


def panel_row(
    choice: Choice,
    classes: tuple[str, str],
    original: Tensor | None,
    adversarial: Tensor,
    dissimilarity: Tensor,
    gradcams: Mapping[str, Tensor],
) -> PanelRow:
    """A row from images and maps.

    Args:
        choice: which photograph.
        classes: names of its class before and after.
        original, adversarial: `(C, H, W)` in [0, 1]; None for an original that is not at hand.
        dissimilarity: `(h, w)`, 1 - SSIM, of any size.
        gradcams: `(h, w)` each, of any size and at least 0: "gradcam" of the label at the original, and of
            `percep.study.Measurements.movement` "adversarial" and "adversarial_new_class", where there are any.
    """
    size = (int(adversarial.shape[-2]), int(adversarial.shape[-1]))
    maps = {name: _resized(values, size, "bilinear") for name, values in gradcams.items()}
    before = adversarial if original is None else original
    drawn = [
        attention_colours(
            before if name == "gradcam" else adversarial,
            maps[name],
            maps.get("gradcam") if name == "adversarial" else None,
        )
        if name in maps
        else None
        for name in _GRADCAMS
    ]
    ssim = SSIM_SCALE.colours(_resized(dissimilarity, size, "nearest").numpy())
    pictures = (None if original is None else photograph(original), photograph(adversarial), ssim[..., :3], *drawn)
    return PanelRow(choice, *classes, pictures)


def stored_row(choice: Choice, evidence: Evidence, exhibit: StudyExhibit | None, adversarial: Tensor) -> PanelRow:
    """A row from what a run keeps of a photograph: the maps' block means, the image, `(C, H, W)`, and its pictures.

    Without pictures there is no original, SSIM is that of block means, and the classes have no names.
    """
    place = evidence.names.index(choice.name)
    maps = {name: values[place] for name, values in (evidence.attention | evidence.movement).items()}
    gradcams = {name: maps[name] for name in _GRADCAMS if name in maps}
    dissimilarity = evidence.changes["dissimilarity"][place]
    if exhibit is None:
        classes = (f"class {evidence.labels[place]}", f"class {evidence.new_classes[place]}")
        return panel_row(choice, classes, None, adversarial, dissimilarity, gradcams)
    classes = (exhibit.before.name, exhibit.after.name)
    original = torch.from_numpy(_decoded(exhibit.original)).permute(2, 0, 1)
    row = panel_row(choice, classes, original, adversarial, dissimilarity, gradcams)
    return replace(row, pictures=(*row.pictures[:2], _decoded(exhibit.ssim), *row.pictures[3:]))


def save_panels(path: Path, rows: Sequence[PanelRow], rule: str) -> None:
    """Writes the figure, a row per photograph: a PNG, or vectors if the name ends in `.pdf`.

    The same rows give the same bytes.

    Args:
        path: the file to write.
        rows: from top to bottom.
        rule: by which the photographs were chosen, in a sentence without its full stop.
    """
    columns = len(_TITLES)
    width = 2 * _MARGIN + columns * _SIDE + (columns - 1) * _GAP
    height = _HEAD + len(rows) * (_CAPTION + _SIDE) + _FOOT
    with themed(LIGHT):
        figure = Figure((width / _DPI, height / _DPI))
        page = figure.add_axes((0, 0, 1, 1))
        page.set_axis_off()
        page.set(xlim=(0, width), ylim=(height, 0))
        _write(page, _MARGIN, 12, fill(printable(f"{rule}.", 2 * _LINE), _LINE), LIGHT.ink, vertical="top")
        for column, title in enumerate(_TITLES):
            _write(page, _left(column), _HEAD - 16, title, LIGHT.ink, "bold")
        for place, row in enumerate(rows):
            top = _HEAD + place * (_CAPTION + _SIDE)
            _draw_row(figure, page, row, top, vector=path.suffix == ".pdf")
        _draw_foot(figure, page, height - _FOOT + 24)
        save_figure(figure, path, _DPI)


def _draw_row(figure: Figure, page: Axes, row: PanelRow, top: float, *, vector: bool) -> None:
    choice = row.choice
    place = f"{choice.quantile}, {choice.association:.2f}"
    line = top + 38
    _write(page, _MARGIN, line, place, LIGHT.ink, "bold")
    classes = f"{printable(row.before, 16)} → {printable(row.after, 16)}"
    _write(page, _left(2) - _GAP, line, classes, LIGHT.ink)
    _write(page, page.get_xlim()[1] - _MARGIN, line, printable(choice.name, 22), LIGHT.muted, align="right")
    for column, picture in enumerate(row.pictures):
        if picture is None:
            _write(page, _left(column) + 6, top + _CAPTION + _SIDE / 2, "not kept", LIGHT.muted)
        else:
            _draw(figure, page, picture, (_left(column), top + _CAPTION, _SIDE, _SIDE), vector=vector)


def _draw_foot(figure: Figure, page: Axes, top: float) -> None:
    for column, title, scale in (
        (0, "SSIM, logarithmic in 1 − SSIM", SSIM_SCALE),
        (3, "Grad-CAM, of its 99th percentile", ATTENTION_SCALE),
    ):
        _write(page, _left(column), top + 24, title, LIGHT.ink)
        _draw_scale(figure, page, scale, (_left(column), top + 36, 3 * _SIDE + 2 * _GAP, 16))
    _write(page, _MARGIN, top + 106, fill(_NOTE, _LINE), LIGHT.muted, vertical="top")


def _draw_scale(figure: Figure, page: Axes, scale: ColourScale, box: tuple[float, float, float, float]) -> None:
    left, top, width, height = box
    values = np.asarray(scale.norm.inverse(np.linspace(0, 1, 256)))
    _draw(figure, page, scale.colours(values[None])[..., :3], box, vector=True)
    for value, label in scale.ticks.items():
        place = float(scale.norm(value))
        align = "left" if place == 0 else "right" if place == 1 else "center"
        _write(page, left + place * width, top + height + 30, label, LIGHT.muted, align=align)


def _draw(
    figure: Figure, page: Axes, colours: np.ndarray, box: tuple[float, float, float, float], *, vector: bool
) -> None:
    left, top, width, height = box
    _, right = page.get_xlim()
    bottom, _ = page.get_ylim()
    axes = figure.add_axes((left / right, 1 - (top + height) / bottom, width / right, height / bottom))
    axes.set_axis_off()
    # matplotlib truncates fractions of a level, which would change the colours of an 8-bit image.
    pixels = np.rint(255 * colours).astype(np.uint8)
    stretched = len(pixels) == 1
    axes.imshow(pixels, interpolation="none" if vector else "auto", aspect="auto" if stretched else "equal")


def _write(
    page: Axes,
    left: float,
    line: float,
    text: str,
    colour: str,
    weight: str = "normal",
    *,
    align: str = "left",
    vertical: str = "baseline",
) -> None:
    page.text(left, line, text, color=colour, weight=weight, ha=align, va=vertical, size=_SIZE, linespacing=1.25)


def _left(column: int) -> float:
    return _MARGIN + column * (_SIDE + _GAP)


def _resized(values: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    maps = values.detach().double().cpu()[None, None]
    align = None if mode == "nearest" else False
    return torch.nn.functional.interpolate(maps, size, mode=mode, align_corners=align)[0, 0]


def _decoded(source: str) -> np.ndarray:
    """The colours of a data URI, `(H, W, 3)` in [0, 1]."""
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB")) / 255
