"""What the parts of a run hold, and the tables and the report they become."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from percep.data.shards import share
from percep.report import (
    Exhibit,
    Facts,
    ImageRow,
    Panel,
    Prediction,
    Totals,
    save_overview,
    save_report,
    save_summary,
    write_results,
)
from percep.report.common.verdict import accuracy_of
from percep.runs.engine.atomic import atomic
from percep.runs.engine.checkpoints import Checkpoints
from percep.runs.engine.manifest import Manifest, read_manifest

OVERVIEW = 20
"""Most rows of an overview."""
_IMAGES = ("original", "adversarial")


@dataclass(frozen=True)
class Pictures:
    """The pictures of a photograph that a report and an overview will show; None where they will not.

    Attributes:
        exhibit: for the report.
        panel: `packed`, for the overview.
    """

    exhibit: Exhibit | None = None
    panel: bytes | None = None


def checkpoints_of(folder: Path, row: type[ImageRow]) -> Checkpoints:
    """The parts of a run, of which a row is of that type, with its pictures."""
    return Checkpoints(folder / "parts", (row, Pictures))


def packed(panel: Panel) -> bytes:
    """A panel as bytes, its maps in single precision, of SSIM the worst channel: an overview shows no more."""
    values = asdict(panel)
    values["ssim"] = (1 - panel.ssim).amax(0, keepdim=True)  # near 1 single precision would lose its digits
    for name, value in values.items():
        if isinstance(value, Tensor):  # of a batch: a view is saved with all that it is a view of
            values[name] = value.cpu().float().clone()
    for name in _IMAGES:
        values[name] = (values[name] * 255).round().to(torch.uint8)
    file = io.BytesIO()
    torch.save(values, file)
    return file.getvalue()


def unpacked(content: bytes) -> Panel:
    """The panel that was packed, on the CPU, its SSIM map with a single channel."""
    values = torch.load(io.BytesIO(content), weights_only=True)
    values |= {name: values[name].float() / 255 for name in _IMAGES}
    values["ssim"] = 1 - values["ssim"].double()
    values |= {name: Prediction(**values[name]) for name in ("before", "after")}
    return Panel(**values)


def merge(folder: Path, row: type[ImageRow]) -> Mapping[str, object]:
    """Writes `results.csv`, `summary.json`, `report.html` and `overview.png` of all that a run has finished.

    A part is held at a time, and the pictures that are shown. Each file is written whole or stays as it was.

    Args:
        folder: of a run that attacks, finished or not.
        row: what its parts hold of a photograph.

    Returns:
        What `percep.report.summarise` tells of the photographs; of how many they are, `planned`, None where that is not
        known yet; the number of `classes`, and whether the model is right no more often than by chance, `at_chance`,
        None without labels.

    Raises:
        InputError: no run, or a damaged part.
        OSError: a file cannot be written.
    """
    manifest = read_manifest(folder)
    checkpoints = checkpoints_of(folder, row)
    totals, shown = Totals(), _Shown()
    with atomic(folder / "results.csv") as path:
        write_results(path, _rows(manifest, checkpoints, totals, shown), row)
    planned = _planned(manifest, checkpoints, totals)
    counts = totals.counts
    accuracy = accuracy_of(counts["correct_before"], counts["labelled"], counts["without_label"], manifest.classes)
    summary = totals.summary() | {"planned": planned} | accuracy
    with atomic(folder / "summary.json") as path:
        save_summary(path, summary, manifest.settings["seed"])
    with atomic(folder / "report.html") as path:
        facts = Facts(manifest.command, manifest.settings, planned)
        save_report(path, facts, shown.rows, shown.exhibits, summary)
    if shown.panels:
        with atomic(folder / "overview.png") as path:
            save_overview(path, shown.panels)
    return summary


class _Shown:
    """What a report and an overview show."""

    def __init__(self) -> None:
        self.rows: list[ImageRow] = []
        self.exhibits: dict[str, Exhibit] = {}
        self.panels: list[Panel] = []


def _rows(manifest: Manifest, checkpoints: Checkpoints, totals: Totals, shown: _Shown) -> Iterator[ImageRow]:
    for shard, number, records in checkpoints:
        quota = share(manifest.settings["pictures"], manifest.shards, shard)
        for place, (row, pictures) in enumerate(records, start=number * manifest.settings["batch_size"]):
            totals.add(row)
            if place < quota:
                shown.rows.append(row)
            if pictures.exhibit is not None:
                shown.exhibits[row.name] = pictures.exhibit
            if pictures.panel is not None:
                shown.panels.append(unpacked(pictures.panel))
            yield row


def _planned(manifest: Manifest, checkpoints: Checkpoints, totals: Totals) -> int | None:
    if manifest.photographs is not None:
        return manifest.photographs
    return totals.counts["images"] if len(checkpoints.finished().shards) == manifest.shards else None
