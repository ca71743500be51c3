"""What the parts of a comparison hold, and the tables and the report they become."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from percep.report import Facts
from percep.report.common.verdict import lines_of, progress, remarks, warnings
from percep.report.comparison.gallery import ComparedPictures, ComparisonGallery
from percep.report.comparison.page import save_comparison_report
from percep.report.comparison.tables import (
    ComparisonRow,
    accuracy,
    by_attack,
    names_done,
    save_curves,
    summary,
    table,
    write_comparison,
    write_comparison_summary,
)
from percep.runs.comparison.units import unit_of
from percep.runs.engine.atomic import atomic
from percep.runs.engine.checkpoints import Checkpoints
from percep.runs.engine.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Pictured:
    """The pictures of a photograph under an attack that the report will show; None where it will not."""

    pictures: ComparedPictures | None = None


def checkpoints_of(folder: Path) -> Checkpoints:
    """The parts of a comparison: of each a row, and its pictures."""
    return Checkpoints(folder / "parts", (ComparisonRow, Pictured))


def fooled(row: Mapping[str, Any]) -> bool:
    """Whether an attack has found an adversarial 8-bit image, by the column `outcome` of its row."""
    return row["outcome"] is not None and row["outcome"]["resaved_cost"] < math.inf


def merge_comparison(folder: Path) -> str:
    """Writes `compare.csv`, `summary.json` and `report.html` of all that a comparison has finished, and `table.md` and
    `curves.png` of the photographs that all attacks have done.

    All rows are held, and the pictures that are shown. Each file is written whole or stays as it was.

    Args:
        folder: of a run of task=compare, finished or not.

    Returns:
        `table.md`, and what is to be said of labels, accuracy and an interruption.

    Raises:
        InputError: no run, or a damaged part.
        OSError: a file cannot be written.
    """
    manifest, checkpoints = read_manifest(folder), checkpoints_of(folder)
    settings = manifest.settings["compare"]
    rows: list[ComparisonRow] = []
    gallery = ComparisonGallery()
    for row, pictured in _records(checkpoints, settings["attacks"]):
        rows.append(row)
        gallery.add(row, pictured.pictures)
    planned = _planned(manifest, checkpoints, rows)
    with atomic(folder / "compare.csv") as path:
        write_comparison(path, rows)
    with atomic(folder / "summary.json") as path:
        write_comparison_summary(path, rows, manifest.settings["seed"], manifest.classes)
    with atomic(folder / "report.html") as path:
        facts = Facts(manifest.command, manifest.settings, planned)
        save_comparison_report(path, facts, rows, gallery, settings["attacks"], manifest.classes)
    done = names_done(rows, len(settings["attacks"]))
    lines = _write_comparable(folder, [row for row in rows if row.name in done], settings["gradients"])
    known = accuracy(rows, manifest.classes)
    return lines_of([lines, *remarks(known), progress({"images": len(done), "planned": planned})], warnings(known))


def _write_comparable(folder: Path, rows: Sequence[ComparisonRow], gradients: int) -> str:
    """Writes and returns the table of rows that all attacks have; nothing where there are none."""
    found = by_attack(rows)
    if not found:
        return ""
    lines = table([summary(outcomes) for outcomes in found.values()])
    with atomic(folder / "table.md") as path:
        path.write_text(lines + "\n", encoding="utf-8")
    with atomic(folder / "curves.png") as path:
        save_curves(path, found, gradients)
    return lines


def _records(checkpoints: Checkpoints, attacks: Sequence[str]) -> Iterator[tuple[ComparisonRow, Pictured]]:
    """A record per photograph and attack, in the order of both.

    A photograph that is not attacked has a single one, with the reason; so has one that became unreadable between two
    attacks, which are not compared on it.
    """
    for _, units in groupby(checkpoints, key=lambda part: (part[0], unit_of(part[1], len(attacks))[0])):
        places: dict[int, tuple[ComparisonRow, Pictured]] = {}
        left_out: list[tuple[ComparisonRow, Pictured]] = []
        for row, pictured in (record for *_, part in units for record in part):
            if row.outcome is None:
                left_out.append((row, pictured))
            else:
                places[attacks.index(row.outcome.attack)] = row, pictured
        yield from left_out[:1] or [places[place] for place in sorted(places)]


def _planned(manifest: Manifest, checkpoints: Checkpoints, rows: Sequence[ComparisonRow]) -> int | None:
    if manifest.photographs is not None:
        return manifest.photographs
    complete = len(checkpoints.finished().shards) == manifest.shards
    return len({row.name for row in rows if not row.missing}) if complete else None
