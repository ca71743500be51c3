"""The report of a run: one self-contained page, without a network, for people.

Photographs are lossy, the perturbation is not: the page holds what it adds and what it takes away as lossless
pictures and lays them over the compressed original, so that compression never looks like a perturbation.
"""

import base64
import hashlib
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import LogNorm
from PIL import Image

from percep.report.drawing import (
    ATTENTION_SCALE,
    amplification,
    amplified,
    dissimilarity,
    gradcam_colours,
    photograph,
)
from percep.report.panel import Panel, Prediction, asked_line, cut_off
from percep.report.sheet import ColourScale
from percep.report.tables import ImageRow, MinimalRow, summarise, versions

# WebP qualities at which 500 attacked photographs of 224x224 stay below 60 MB.
_PHOTOGRAPH, _DRAWING = 80, 60

# Shared by all images, so that they can be compared; 1 - SSIM, and multiples of the even share.
_SSIM_SCALE = ColourScale(
    LogNorm(1e-6, 1e-1, clip=True),
    "magma",
    {1e-6: "0.999999", 1e-4: "0.9999", 1e-3: "0.999", 1e-2: "0.99", 1e-1: "0.9"},
)
_BUDGET_SCALE = ColourScale(
    LogNorm(0.1, 100, clip=True), "viridis", {0.1: "0.1×", 1.0: "1×", 10.0: "10×", 100.0: "100×"}
)

_UNKNOWN = "–"


@dataclass(frozen=True)
class Facts:
    """What a report says of its run.

    Attributes:
        command: a line for a shell that repeats the run.
        settings: the resolved configuration, nested; `task`, `model.name` and `seed` are among its keys.
        planned: how many photographs the run set out to do; a report of fewer rows says it was interrupted.
    """

    command: str
    settings: Mapping[str, object]
    planned: int


@dataclass(frozen=True)
class Exhibit:
    """The pictures of one image as data URIs, and what is written beside them; a tenth of a megabyte.

    Attributes:
        width, height: of each picture, in pixels.
        original: the reference, compressed.
        brighter: what the adversarial image adds to `original`, without loss.
        darker: what it takes away, without loss, and never more than `original` has.
        difference: the perturbation amplified by `factor`.
        largest: the largest change, in levels of 255.
        ssim, gradcam, allocation: the maps, each on the scale that all exhibits share.
        spent: whether anything of the budget was spent.
        before, after: the predictions on the original and on the adversarial image.
        asked: the levels asked for, in words.
    """

    width: int
    height: int
    original: str
    brighter: str
    darker: str
    difference: str
    factor: int
    largest: int
    ssim: str
    gradcam: str
    allocation: str
    spent: bool
    before: Prediction
    after: Prediction
    asked: str


def exhibit(panel: Panel) -> Exhibit:
    """Encodes a panel; the tensors need not be kept."""
    perturbation = panel.adversarial - panel.original
    factor = amplification(perturbation)
    levels = np.rint(255 * photograph(perturbation))
    original = _encoded(photograph(panel.original), quality=_PHOTOGRAPH)
    with Image.open(io.BytesIO(original)) as decoded:
        shown = np.asarray(decoded.convert("RGB")) / 255
    height, width = levels.shape[:2]
    return Exhibit(
        width=width,
        height=height,
        original=_data_uri(original),
        brighter=_data_uri(_encoded(levels.clip(0, 255) / 255)),
        darker=_data_uri(_encoded((-levels / 255).clip(0, shown))),
        difference=_drawing(amplified(perturbation, factor)),
        factor=factor,
        largest=int(np.abs(levels).max()),
        ssim=_drawing(_SSIM_SCALE.colours(dissimilarity(panel.ssim))),
        gradcam=_drawing(gradcam_colours(panel.original, panel.gradcam)[0]),
        allocation=_drawing(_BUDGET_SCALE.colours(panel.allocation.double().cpu().numpy())),
        spent=bool(panel.allocation.any()),
        before=panel.before,
        after=panel.after,
        asked=asked_line(panel),
    )


def save_report(path: Path, facts: Facts, rows: Sequence[ImageRow], exhibits: Mapping[str, Exhibit]) -> None:
    """Writes the page: verdict, gallery, a table that sorts, and how to repeat the run.

    Args:
        path: the file to write; the adversarial images are linked as `adversarial/NAME.png` beside it.
        facts: of the run.
        rows: every image, in order.
        exhibits: by the name of the image, for the images that have pictures.
    """
    findings = _findings(rows)
    script = _source("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    _ENVIRONMENT.get_template("attack.html").stream(
        facts=facts,
        settings=_flat(facts.settings),
        rows=rows,
        exhibits=exhibits,
        verdict=verdict(rows),
        figures=_figures(rows),
        legends=_legends(),
        findings=findings,
        columns=(*_NAMES, *findings, _SECONDS),
        versions=versions(),
        style=_source("style.css"),
        script=script,
        script_hash=f"sha256-{digest}",
    ).dump(str(path), encoding="utf-8", errors="backslashreplace")


def verdict(rows: Sequence[ImageRow]) -> str:
    """A run in a sentence without its full stop."""
    summary = summarise(rows)
    correct, successes, certified = (summary[key] for key in ("correct_before", "successes", "certified"))
    if not correct:
        return "No photograph was classified correctly to begin with"
    plural = "photograph is" if correct == 1 else "photographs are"
    turned = f"{successes} of {correct} correctly classified {plural} turned"
    if not successes:
        return turned
    found = summary.get("one_minus_found")
    if isinstance(found, dict):
        return f"{turned}, at a median 1 − SSIM of {_number(found['median'])} in the saved files"
    return f"{turned}, {'all' if certified == successes else certified} certified from the saved files"


def _figures(rows: Sequence[ImageRow]) -> list[tuple[str, str]]:
    summary = summarise(rows)
    medians = summary["medians"]
    assert isinstance(medians, dict)
    cost, gradients = medians["one_minus_mean_ssim"], medians["gradient_calls"]
    unreadable = [("Unreadable", f"{summary['unreadable']}")] if summary["unreadable"] else []
    return [
        ("Photographs", f"{summary['images']}"),
        *unreadable,
        ("Mean SSIM, median", _ssim(None if cost is None else 1 - cost)),
        ("Least SSIM, median", _ssim(medians["min_ssim"])),
        ("Gradients, median", _UNKNOWN if gradients is None else f"{gradients:g}"),
        ("Seconds, median", _number(medians["seconds"])),
    ]


@dataclass(frozen=True)
class _Legend:
    """A colour scale to show; ticks are a place in percent of the bar's length, and a label."""

    title: str
    note: str
    source: str
    ticks: Sequence[tuple[float, str]]


def _legends() -> list[_Legend]:
    return [
        _legend("SSIM", "worst channel, logarithmic in 1 − SSIM", _SSIM_SCALE),
        _legend("Grad-CAM", "of the original, relative to its maximum", ATTENTION_SCALE),
        _legend("Budget spent", "in even shares, logarithmic", _BUDGET_SCALE),
    ]


def _legend(title: str, note: str, scale: ColourScale) -> _Legend:
    values = np.asarray(scale.norm.inverse(np.linspace(0, 1, 256)))
    ticks = sorted((round(100 * float(scale.norm(value)), 2), label) for value, label in scale.ticks.items())
    return _Legend(title, note, _data_uri(_encoded(scale.colours(values[None]))), ticks)


def _encoded(colours: np.ndarray, quality: int | None = None) -> bytes:
    """`(H, W, 3 or 4)` colours in `[0, 1]` as a WebP, without loss unless a quality is given."""
    pixels = np.rint(255 * colours[..., :3]).astype(np.uint8)
    file = io.BytesIO()
    if quality is None:
        Image.fromarray(pixels).save(file, format="WEBP", lossless=True)
    else:
        Image.fromarray(pixels).save(file, format="WEBP", quality=quality)
    return file.getvalue()


def _data_uri(picture: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def _drawing(colours: np.ndarray) -> str:
    return _data_uri(_encoded(colours, quality=_DRAWING))


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted key, written as on the command line."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = "null" if value is None else str(value)
    return flat


def _ssim(value: float | None) -> str:
    return _UNKNOWN if value is None or not math.isfinite(value) else cut_off(value)


def _number(value: float | None) -> str:
    """Three digits of a measured number, all of a count."""
    if value is None or not math.isfinite(value):
        return _UNKNOWN
    return str(value) if isinstance(value, int) else f"{value:#.3g}"


def _words(status: str) -> str:
    """A status for people; the reason after a colon stays as it is."""
    word, colon, reason = status.partition(":")
    return word.replace("_", " ") + colon + reason


@dataclass(frozen=True)
class _Column:
    """A column of the table: the value of a row, how it is written, and whether it sorts as a number."""

    title: str
    value: Callable[[Any], object]
    write: Callable[..., str] = str
    numeric: bool = False

    def text(self, row: ImageRow) -> str:
        value = self.value(row)
        return _UNKNOWN if value is None else self.write(value)

    def key(self, row: ImageRow) -> str:
        """What the row is sorted by; empty where it is unknown."""
        value = self.value(row)
        unknown = value is None or (isinstance(value, float) and not math.isfinite(value))
        return "" if unknown else str(value)


def _cost(ssim: float | None) -> float | None:
    return None if ssim is None else 1 - ssim


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


_NAMES = (
    _Column("Photograph", lambda row: row.name),
    _Column("Label", lambda row: row.label_name),
    _Column("Before", lambda row: row.predicted_before_name),
    _Column("After", lambda row: row.predicted_after_name),
)
_STATUS = _Column("Status", lambda row: row.status, _words)
_CERTIFICATE = (_Column("Certified", lambda row: row.certified, _yes_or_no),)
_SEARCH = (
    _Column("1 − SSIM found", lambda row: _cost(row.found), _number, numeric=True),
    _Column("1 − SSIM missed", lambda row: _cost(row.missed), _number, numeric=True),
)
_MEASURES = (
    _Column("Mean SSIM", lambda row: row.mean_ssim, _ssim, numeric=True),
    _Column("Least SSIM", lambda row: row.min_ssim, _ssim, numeric=True),
    _Column("L2", lambda row: row.l2, _number, numeric=True),
    _Column("L∞", lambda row: row.linf, _number, numeric=True),
    _Column("Gap", lambda row: row.gap, _number, numeric=True),
    _Column("Gradients", lambda row: row.gradient_calls, _number, numeric=True),
)
_SECONDS = _Column("Seconds", lambda row: row.seconds, _number, numeric=True)


def _findings(rows: Sequence[ImageRow]) -> tuple[_Column, ...]:
    """The columns that say what came of an image; a search for the smallest change has no ball to be inside."""
    searched = all(isinstance(row, MinimalRow) for row in rows)
    return (_STATUS, *(_SEARCH if searched else _CERTIFICATE), *_MEASURES)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("percep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "file": lambda name: f"adversarial/{quote(os.fsencode(name))}.png",
        "number": _number,
        "percent": lambda share: f"{share:.1%}",
        "ssim": _ssim,
        "words": _words,
    }
    environment.filters |= filters
    return environment


_ENVIRONMENT = _environment()


def _source(name: str) -> Markup:
    """A style sheet or a script of the templates, which holds nothing of a run and is not escaped."""
    assert _ENVIRONMENT.loader is not None
    return Markup(_ENVIRONMENT.loader.get_source(_ENVIRONMENT, name)[0])
