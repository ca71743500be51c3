"""The report page of a run of task=attack or task=minimal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from percep.report.attack.tables import LEFT_OUT, ImageRow, summarise
from percep.report.common.colours import gradcam_colours
from percep.report.common.columns import UNKNOWN, Column, number, ssim, words
from percep.report.common.embedded import (
    BUDGET_SCALE,
    Layers,
    budget_legend,
    gradcam_legend,
    layers,
    ssim_legend,
    webp_uri,
)
from percep.report.common.page import Facts, save_page
from percep.report.common.panel import Panel, Prediction, asked_line
from percep.report.common.verdict import progress, verdict, warnings

__all__ = ["Exhibit", "Facts", "exhibit", "save_report"]


@dataclass(frozen=True)
class Exhibit(Layers):
    """The pictures of one image as data URIs, and what is written beside them; a tenth of a megabyte.

    Attributes:
        gradcam, allocation: the maps, each on the scale that all exhibits share; a network may have no Grad-CAM.
        no_gradcam: why there is no Grad-CAM.
        spent: whether any budget was spent.
        before, after: the predictions on the original and on the adversarial image.
        asked: the levels asked for, in words.
    """

    gradcam: str | None = field(repr=False)
    no_gradcam: str | None
    allocation: str = field(repr=False)
    spent: bool
    before: Prediction
    after: Prediction
    asked: str


def exhibit(panel: Panel) -> Exhibit:
    """Encodes a panel; its tensors may be released afterwards."""
    return Exhibit(
        **vars(layers(panel.original, panel.adversarial, panel.ssim)),
        gradcam=None if panel.gradcam is None else webp_uri(gradcam_colours(panel.original, panel.gradcam)[0]),
        no_gradcam=panel.no_gradcam,
        allocation=webp_uri(BUDGET_SCALE.colours(panel.allocation.double().cpu().numpy())),
        spent=bool(panel.allocation.any()),
        before=panel.before,
        after=panel.after,
        asked=asked_line(panel),
    )


def save_report(
    path: Path,
    facts: Facts,
    rows: Sequence[ImageRow],
    exhibits: Mapping[str, Exhibit],
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Writes the page: verdict, gallery, a table that sorts, and how to repeat the run.

    Args:
        path: the file to write; the adversarial images are linked as `adversarial/NAME.png` beside it.
        facts: of the run.
        rows: the images to show, in order, of one type.
        exhibits: by the name of the image, for the images that have pictures.
        summary: `summarise` of all images, where not all of them are shown.
    """
    summary = summarise(rows) if summary is None else summary
    findings = _findings(rows)
    attention = any(exhibit.gradcam is not None for exhibit in exhibits.values())
    pictured = [row.name for row in rows if row.name in exhibits]
    save_page(
        path,
        "attack.html",
        facts,
        rows=rows,
        exhibits=exhibits,
        anchors={name: f"photograph-{number}" for number, name in enumerate(pictured, start=1)},
        images=summary["images"],
        verdict=verdict(summary),
        progress=progress({**summary, "planned": facts.planned}),
        warnings=warnings(summary),
        figures=_figures(summary),
        legends=[ssim_legend(), *([gradcam_legend()] if attention else []), budget_legend()],
        findings=findings,
        columns=(*_NAMES, *([_TARGET] if any(row.target is not None for row in rows) else []), *findings, _SECONDS),
    )


def _figures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    medians = summary["medians"]
    cost, gradients = medians["one_minus_mean_ssim"], medians["gradient_calls"]
    least, largest = summary["least_ssim"], summary["largest_change"]
    correct = summary["correct_before"]
    left_out = [(name.capitalize(), f"{summary[name]}") for name in LEFT_OUT if summary[name]]
    return [
        ("Photographs", f"{summary['images']}"),
        *left_out,
        ("Classified correctly", "no labels" if correct is None else f"{correct} of {summary['labelled']}"),
        ("Mean SSIM, median", ssim(None if cost is None else 1 - cost)),
        ("Least SSIM of all", ssim(None if least is None else least["ssim"])),
        ("Largest change of all", UNKNOWN if largest is None else f"{largest['levels']}/255"),
        ("Gradients, median", UNKNOWN if gradients is None else f"{gradients:g}"),
        ("Seconds, median", number(medians["seconds"])),
    ]


def _place(row: ImageRow) -> str | None:
    return None if row.worst_row is None else f"row {row.worst_row}, column {row.worst_column}"


_NAMES = (
    Column("Photograph", lambda row: row.name),
    Column("Label", lambda row: row.label_name),
    Column("Before", lambda row: row.predicted_before_name),
    Column("After", lambda row: row.predicted_after_name),
)
_TARGET = Column("Target", lambda row: row.target_name)
_STATUS = Column("Status", lambda row: row.status, words)
_MEASURES = (
    Column("Mean SSIM", lambda row: row.mean_ssim, ssim, numeric=True),
    Column("Least SSIM", lambda row: row.min_ssim, ssim, numeric=True),
    Column("Worst place", _place),
    Column("L2", lambda row: row.l2, number, numeric=True),
    Column("L∞", lambda row: row.linf, number, numeric=True),
    Column("Gap", lambda row: row.gap, number, numeric=True),
    Column("Gradients", lambda row: row.gradient_calls, number, numeric=True),
)
_SECONDS = Column("Seconds", lambda row: row.seconds, number, numeric=True)


def _findings(rows: Sequence[ImageRow]) -> tuple[Column, ...]:
    """The result columns, those of the rows' own type among them."""
    kind = type(rows[0]) if rows else ImageRow
    return (_STATUS, *kind.extra_columns, *_MEASURES)
