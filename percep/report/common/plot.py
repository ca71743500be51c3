"""A plot inside a page, drawn once for light and once for dark surroundings."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from percep.report.common.embedded import data_uri

_POINTS_PER_PIXEL = 0.75


@dataclass(frozen=True)
class Theme:
    """The colours of a plot: of important and of secondary elements, of grid lines, and eleven hues for data."""

    ink: str
    muted: str
    rule: str
    hues: tuple[str, ...]


LIGHT = Theme(
    ink="#1c1c20",
    muted="#5c5c66",
    rule="#dfdfe3",
    hues=(
        "#7a5230",
        "#b85c00",
        "#c0262d",
        "#1f5fa8",
        "#1b7f4b",
        "#7b3fb5",
        "#c2338f",
        "#8a6d00",
        "#007f8c",
        "#6b6b73",
        "#5f7d00",
    ),
)
DARK = Theme(
    ink="#e8e8ea",
    muted="#a2a2ad",
    rule="#34343b",
    hues=(
        "#c9a17c",
        "#f0a04b",
        "#ff7b7b",
        "#7fb2f0",
        "#5fcf8f",
        "#c49bf2",
        "#f48ac8",
        "#e3c44a",
        "#4fd0dc",
        "#b4b4bc",
        "#b5d34f",
    ),
)
"""The colours of `LIGHT`, lighter."""


@dataclass(frozen=True)
class Plot:
    """A plot to embed with `figure.html`.

    Attributes:
        light: a data URI, for a light page.
        dark: the same for a dark page; empty where `light` serves both.
        alt: what it shows, in words.
        width, height: in pixels.
        title, note: the caption; may be empty.
    """

    light: str
    dark: str
    alt: str
    width: int
    height: int
    title: str = ""
    note: str = ""


def plot(
    draw: Callable[[Figure, Theme], None], *, width: int, height: int, alt: str, title: str = "", note: str = ""
) -> Plot:
    """Draws a plot twice, as SVG on a transparent ground; the same drawing gives the same bytes.

    Args:
        draw: onto an empty figure, in the colours of a theme; axes, ticks and text have theirs already.
        width, height: in pixels.
        alt: what it shows, in words.
        title, note: the caption; may be empty.
    """
    light, dark = (_svg(draw, width, height, theme) for theme in (LIGHT, DARK))
    return Plot(light, dark, alt, width, height, title, note)


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Within it, axes, ticks and text are drawn in the colours of a theme, whatever the user's style."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "font.size": 13 * _POINTS_PER_PIXEL,
                "text.parse_math": False,
                "pdf.fonttype": 42,  # whole glyphs, which journals ask for and which can be edited
                "text.color": theme.ink,
                "axes.edgecolor": theme.muted,
                "axes.labelcolor": theme.muted,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "xtick.color": theme.muted,
                "ytick.color": theme.muted,
                "grid.color": theme.rule,
                "svg.hashsalt": "percep",
            }
        )
        yield


def save_figure(figure: Figure, path: Path, dpi: float) -> None:
    """Writes a figure as a PNG or, if the name ends in `.pdf`, as vectors with its fonts; within `themed`.

    The file holds neither date nor software: the same figure gives the same bytes. `dpi` is of the PNG.
    """
    vector = path.suffix == ".pdf"
    unstamped = dict.fromkeys(("CreationDate", "Creator", "Producer") if vector else ("Software",))
    figure.savefig(path, dpi=dpi, facecolor="white", metadata=unstamped)


def _svg(draw: Callable[[Figure, Theme], None], width: int, height: int, theme: Theme) -> str:
    with themed(theme):
        figure = Figure((width * _POINTS_PER_PIXEL / 72, height * _POINTS_PER_PIXEL / 72))
        draw(figure, theme)
        file = io.BytesIO()
        unstamped = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=unstamped)
    return data_uri("image/svg+xml", file.getvalue())
