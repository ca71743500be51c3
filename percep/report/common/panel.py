"""One picture per image: what was changed, how much, where, and what the classifier looks at."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from percep.report.common.canvas import MUTED, Box, Canvas, canvas, printable
from percep.report.common.colours import (
    allocation_colours,
    amplification,
    amplified,
    gradcam_colours,
    photograph,
    ssim_colours,
)
from percep.report.common.worst_place import WorstPlace, worst_place

# Lengths in pixels; twice the side of the usual 224-pixel image.
_SIDE, _GAP, _MARGIN = 448, 24, 28
_HEAD, _CAPTION, _BAR, _LABELS = 88, 34, 12, 32

_CERTIFIED, _NOT_CERTIFIED = "#1a7f4b", "#b3261e"


@dataclass(frozen=True)
class Prediction:
    """A class name and its probability in `[0, 1]`."""

    name: str
    probability: float


@dataclass(frozen=True)
class Panel:
    """The data of one image's pictures; tensors are finite.

    Attributes:
        name: the image's name.
        original: `(C, H, W)` in `[0, 1]`, C of 1 or 3.
        adversarial: the saved image, same shape and range.
        ssim: `(C, H, W)`, the SSIM map of the two.
        gradcam: `(H, W)`, at least 0, Grad-CAM of the original; None where the network has none.
        allocation: `(H, W)`, multiples of the uniform share of the budget.
        before: the prediction on the original.
        after: the prediction on the saved image.
        min_ssim: smallest certified SSIM over windows and channels.
        mean_ssim: certified mean SSIM over windows and channels.
        floor: the floor asked for, or None.
        mean: the mean asked for, or None.
        certified: whether the saved image is inside the ball, or in the pixel range where there is none.
        status: why the attack stopped.
        no_gradcam: why there is no Grad-CAM.
    """

    name: str
    original: Tensor = field(repr=False)
    adversarial: Tensor = field(repr=False)
    ssim: Tensor = field(repr=False)
    gradcam: Tensor | None = field(repr=False)
    allocation: Tensor = field(repr=False)
    before: Prediction
    after: Prediction
    min_ssim: float
    mean_ssim: float
    floor: float | None
    mean: float | None
    certified: bool
    status: str
    no_gradcam: str | None = None

    @cached_property
    def worst(self) -> WorstPlace | None:
        """Where SSIM is least; None where nothing was changed."""
        return worst_place(self.original, self.adversarial, self.ssim)


def save_panel(path: Path, panel: Panel) -> None:
    """Writes the panel of one image as a PNG of 1448 x 1112 pixels; the same panel gives the same bytes.

    Two rows of three: original, saved adversarial, amplified perturbation; SSIM with a ring around its least value,
    Grad-CAM or why there is none, allocation. Above them stand the predictions and the certificate.
    """
    first = _HEAD + _CAPTION
    second = first + _SIDE + _CAPTION + 8
    bars = second + _SIDE + 8
    perturbation = panel.adversarial - panel.original
    factor, largest = amplification(perturbation), 255 * float(perturbation.abs().max())
    ssim, ssim_scale = ssim_colours(panel.ssim)
    allocation, allocation_scale = allocation_colours(panel.allocation)
    least = "worst channel, log scale of 1 − SSIM" if panel.worst is None else _least(panel.worst)
    spent = "multiples of the uniform share" if panel.allocation.any() else "nothing was spent"
    with canvas(path, 2 * _MARGIN + 3 * _SIDE + 2 * _GAP, bars + _BAR + _LABELS) as page:
        _write_head(page, panel)
        for column, top, title, note, colours in (
            (0, first, "Original", "", photograph(panel.original)),
            (1, first, "Adversarial", "the saved 8-bit file", photograph(panel.adversarial)),
            (
                2,
                first,
                f"Perturbation × {factor}",
                f"largest change {largest:.0f}/255",
                amplified(perturbation, factor),
            ),
            (0, second, "SSIM", least, ssim),
            (2, second, "Budget spent", spent, allocation),
        ):
            box = _draw(page, column, top, title, note, colours)
            if top == second and column == 0 and panel.worst is not None:
                page.ring(box, panel.worst.row, panel.worst.column, panel.ssim.shape[-2:])
        _draw_gradcam(page, panel, second, bars)
        for column, scale in ((0, ssim_scale), (2, allocation_scale)):
            page.colour_bar(scale, Box(_left(column), bars, _SIDE, _BAR))


def _draw(page: Canvas, column: int, top: float, title: str, note: str, colours: np.ndarray | None) -> Box:
    """A picture under its title, or an empty cell; returns the box drawn into."""
    left = _left(column)
    page.text(left, top - 16, title, size=12, bold=True)
    page.text(left + _SIDE, top - 16, note, size=11, colour=MUTED, align="right")
    cell = Box(left, top, _SIDE, _SIDE)
    return cell if colours is None else page.image(colours, cell)


def _draw_gradcam(page: Canvas, panel: Panel, top: float, bar: float) -> None:
    if panel.gradcam is None:
        page.notice(_draw(page, 1, top, "Grad-CAM", "none", None), panel.no_gradcam or "", size=11)
        return
    colours, scale = gradcam_colours(panel.original, panel.gradcam)
    _draw(page, 1, top, "Grad-CAM", "of the original" if panel.gradcam.any() else "zero everywhere", colours)
    page.colour_bar(scale, Box(_left(1), bar, _SIDE, _BAR))


def _least(worst: WorstPlace) -> str:
    return f"worst channel, log scale; ring: least, up to {255 * worst.change:.0f}/255"


def certificate_line(panel: Panel) -> str:
    """The certificate in words; SSIM is cut off after six digits, never rounded up."""
    verdict = "certified" if panel.certified else "not certified"
    return f"{verdict}   ·   min SSIM {cut_off(panel.min_ssim)}   ·   mean SSIM {cut_off(panel.mean_ssim)}"


def certificate_colour(panel: Panel) -> str:
    """Green for a certified image, red for one that is not."""
    return _CERTIFIED if panel.certified else _NOT_CERTIFIED


def predictions_line(panel: Panel) -> str:
    """The predictions before and after, with their probabilities."""
    before, after = (
        f"{printable(prediction.name, 28)}  {prediction.probability:.1%}" for prediction in (panel.before, panel.after)
    )
    return f"{before}  →  {after}"


def asked_line(panel: Panel) -> str:
    """The levels asked for, in words; empty where there are none."""
    levels = (("floor", panel.floor), ("mean", panel.mean))
    return ", ".join(f"{name} ≥ {level}" for name, level in levels if level is not None)


def cut_off(ssim: float) -> str:
    """Six digits of an SSIM, never rounded up."""
    return f"{math.floor(ssim * 1e6) / 1e6:.6f}"


def _write_head(page: Canvas, panel: Panel) -> None:
    page.text(_MARGIN, 34, predictions_line(panel), size=17, bold=True)
    page.text(page.width - _MARGIN, 34, printable(panel.name, 32), size=11, colour=MUTED, align="right")
    page.text(_MARGIN, 68, "●", size=13, colour=certificate_colour(panel))
    asked = asked_line(panel)
    status = printable(panel.status.replace("_", " "), 60)
    parts = [certificate_line(panel), *([f"asked: {asked}"] if asked else []), status]
    page.text(_MARGIN + 22, 68, "   ·   ".join(parts), size=12)


def _left(column: int) -> float:
    return _MARGIN + column * (_SIDE + _GAP)
