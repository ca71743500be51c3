"""A PNG drawn in pixel coordinates, with the same bytes for the same content."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Literal, NamedTuple
from unicodedata import category

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

INK = "#1b1b1f"
MUTED = "#5f5f68"

_FONT = "DejaVu Sans"
_DPI = 100
_RING_DIAMETER = 15
"""In points."""
_NOTICE_GREY = 0.95
_CHARACTER_WIDTH = 9
"""Of a character of a colour bar's label in pixels, rounded up."""


class Box(NamedTuple):
    """A rectangle in pixels, from the canvas's top left corner."""

    left: float
    top: float
    width: float
    height: float


class ColourScale(NamedTuple):
    """A colour map with the labels of its colour bar by value.

    `norm` maps values to `[0, 1]`; `palette` is the name of a matplotlib colour map.
    """

    norm: Normalize
    palette: str
    ticks: dict[float, str]

    def colours(self, values: np.ndarray) -> np.ndarray:
        """`(H, W)` values to `(H, W, 4)` colours in `[0, 1]`."""
        return np.asarray(mpl.colormaps[self.palette](self.norm(values)))


@contextmanager
def canvas(path: Path, width: int, height: int) -> Iterator["Canvas"]:
    """A white `Canvas` of `width x height` pixels, written to `path` as a PNG when the block ends normally.

    Inside the block matplotlib has its own defaults, whatever the user's configuration; the file holds
    neither date nor software. So equal content gives equal bytes.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"font.family": _FONT, "text.parse_math": False})
        page = Canvas(width, height)
        yield page
        FigureCanvasAgg(page.figure).print_png(path, metadata={"Software": None})


class Canvas:
    """A figure with a single pair of axes whose unit is the pixel. Made by `canvas`."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure((width / _DPI, height / _DPI), dpi=_DPI)
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._axes.set_autoscale_on(False)
        self._axes.set(xlim=(0, width), ylim=(height, 0))

    def image(self, colours: np.ndarray, box: Box) -> Box:
        """Draws `(H, W, 3 or 4)` colours in `[0, 1]`, fitted into `box` and centred; returns the box drawn into."""
        height, width = colours.shape[:2]
        scale = min(box.width / width, box.height / height)
        left = box.left + (box.width - scale * width) / 2
        top = box.top + (box.height - scale * height) / 2
        fitted = Box(left, top, scale * width, scale * height)
        self._stretch(colours, fitted)
        return fitted

    def ring(self, picture: Box, row: int, column: int, shape: Sequence[int]) -> None:
        """A ring around a pixel of an image of `shape` (rows, columns) that was drawn in the box `picture`."""
        x = picture.left + (column + 0.5) / shape[1] * picture.width
        y = picture.top + (row + 0.5) / shape[0] * picture.height
        for colour, width in (("black", 3.6), ("white", 1.8)):
            self._axes.plot(
                [x],
                [y],
                "o",
                markersize=_RING_DIAMETER,
                markerfacecolor="none",
                markeredgecolor=colour,
                markeredgewidth=width,
            )

    def notice(self, box: Box, text: str, *, size: float) -> None:
        """A light grey box with a centred text of several lines, in place of a picture."""
        self._stretch(np.full((1, 1, 3), _NOTICE_GREY), box)
        lines = wrap(" ".join(text.split()), int(box.width / (0.9 * size)), break_on_hyphens=False)
        pitch = 2 * size
        middle = box.top + box.height / 2 - pitch * (len(lines) - 1) / 2
        for place, line in enumerate(lines):
            self.text(
                box.left + box.width / 2,
                middle + place * pitch,
                printable(line, len(line)),
                size=size,
                colour=MUTED,
                align="center",
            )

    def text(
        self,
        left: float,
        middle: float,
        text: str,
        *,
        size: float,
        colour: str = INK,
        bold: bool = False,
        align: Literal["left", "center", "right"] = "left",
    ) -> None:
        """One line of text, `size` in points, vertically centred at `middle`."""
        self._axes.text(
            left,
            middle,
            text,
            size=size,
            color=colour,
            weight="bold" if bold else "normal",
            ha=align,
            va="center_baseline",
        )

    def tag(self, left: float, bottom: float, text: str) -> None:
        """A short text on a picture, on a light background."""
        background = {"boxstyle": "square,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        self._axes.text(left, bottom, text, size=10, color=INK, ha="left", va="bottom", bbox=background)

    def colour_bar(self, scale: ColourScale, box: Box) -> None:
        """A horizontal colour bar in `box`, its labels below."""
        values = np.asarray(scale.norm.inverse(np.linspace(0, 1, 256)))
        self._stretch(scale.colours(values[None]), box)
        right, bottom = box.left + box.width, box.top + box.height
        for value, label in scale.ticks.items():
            x = box.left + float(scale.norm(value)) * box.width
            reach = _CHARACTER_WIDTH * len(label) / 2
            self._axes.plot([x, x], [bottom, bottom + 4], color=MUTED, linewidth=0.8)
            self.text(
                x,
                bottom + 14,
                label,
                size=10,
                colour=MUTED,
                align="left" if x - reach < box.left else "right" if x + reach > right else "center",
            )

    def _stretch(self, colours: np.ndarray, box: Box) -> None:
        extent = (box.left, box.left + box.width, box.top + box.height, box.top)
        # matplotlib truncates fractions of a level, which would change the colours of an 8-bit image.
        pixels = np.rint(255 * colours).astype(np.uint8)
        self._axes.imshow(pixels, extent=extent, interpolation="nearest", aspect="auto")


def printable(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters; a character the font lacks becomes U+FFFD."""
    line = " ".join(text.split())
    shown = "".join(
        character if ord(character) in _glyphs() and category(character)[0] != "C" else "\ufffd" for character in line
    )
    return shown if len(shown) <= width else shown[: width - 1].rstrip() + "…"


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties(family=_FONT))).get_charmap())
