"""A contact sheet: several images of a run on one page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from percep.errors import InputError
from percep.report.common.canvas import MUTED, Box, canvas
from percep.report.common.colours import (
    allocation_colours,
    amplification,
    amplified,
    gradcam_colours,
    photograph,
    ssim_colours,
)
from percep.report.common.panel import Panel, certificate_colour, certificate_line, predictions_line

# Lengths in pixels; thumbnails have the side of the usual 224-pixel image.
_SIDE, _GAP, _MARGIN = 224, 10, 24
_HEAD, _LINE, _BETWEEN = 48, 30, 14

_TITLES = ("Original", "Adversarial", "Perturbation", "SSIM", "Grad-CAM", "Budget spent")


def save_overview(path: Path, panels: Sequence[Panel]) -> None:
    """Writes a PNG 1442 pixels wide, a row per panel, with the six pictures of `save_panel` side by side.

    A ring is around the least SSIM. Each map has its own scale: compare places along a row, not brightness
    down a column.

    Raises:
        InputError: no panels.
    """
    if not panels:
        raise InputError("an overview needs at least one image")
    lefts = [_MARGIN + column * (_SIDE + _GAP) for column in range(len(_TITLES))]
    pitch = _LINE + _SIDE + _BETWEEN
    with canvas(path, lefts[-1] + _SIDE + _MARGIN, _HEAD + len(panels) * pitch + _MARGIN - _BETWEEN) as page:
        for left, title in zip(lefts, _TITLES, strict=True):
            page.text(left, 30, title, size=12, bold=True)
        for row, panel in enumerate(panels):
            line, top = _HEAD + row * pitch + _LINE // 2, _HEAD + row * pitch + _LINE
            perturbation = panel.adversarial - panel.original
            factor = amplification(perturbation)
            page.text(lefts[0], line, predictions_line(panel), size=11, bold=True)
            right = lefts[-1] + _SIDE
            page.text(right - 16, line, certificate_line(panel), size=10, colour=MUTED, align="right")
            page.text(right, line, "●", size=10, colour=certificate_colour(panel), align="right")
            pictures: tuple[np.ndarray | None, ...] = (
                photograph(panel.original),
                photograph(panel.adversarial),
                amplified(perturbation, factor),
                ssim_colours(panel.ssim)[0],
                None if panel.gradcam is None else gradcam_colours(panel.original, panel.gradcam)[0],
                allocation_colours(panel.allocation)[0],
            )
            for title, left, colours in zip(_TITLES, lefts, pictures, strict=True):
                box = Box(left, top, _SIDE, _SIDE)
                if colours is None:
                    page.notice(box, panel.no_gradcam or "", size=9)
                    continue
                fitted = page.image(colours, box)
                if title == "SSIM" and panel.worst is not None:
                    page.ring(fitted, panel.worst.row, panel.worst.column, panel.ssim.shape[-2:])
            page.tag(lefts[2] + 6, top + _SIDE - 6, f"× {factor}")
