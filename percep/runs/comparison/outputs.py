"""The tables and the report of a comparison."""

from collections.abc import Sequence
from pathlib import Path

from percep.report import Facts
from percep.report.common.verdict import lines_of, remarks, warnings
from percep.report.comparison.gallery import ComparisonGallery
from percep.report.comparison.page import save_comparison_report
from percep.report.comparison.tables import (
    ComparisonRow,
    accuracy,
    by_attack,
    save_curves,
    summary,
    table,
    write_comparison,
    write_comparison_summary,
)
from percep.runs.config import CompareTask


def write_done(
    folder: Path,
    config: CompareTask,
    facts: Facts,
    rows: Sequence[ComparisonRow],
    gallery: ComparisonGallery,
    classes: int,
) -> None:
    """Writes `compare.csv`, `summary.json` and `report.html` of what was done, all of it or not."""
    write_comparison(folder / "compare.csv", rows)
    write_comparison_summary(folder / "summary.json", rows, config.seed, classes)
    save_comparison_report(folder / "report.html", facts, rows, gallery, config.compare.attacks, classes)


def write_comparison_of_all(folder: Path, config: CompareTask, rows: Sequence[ComparisonRow], classes: int) -> str:
    """Writes `table.md` and `curves.png` of all photographs, and returns what is to be said of them."""
    found = by_attack(rows)
    lines = table([summary(outcomes) for outcomes in found.values()])
    (folder / "table.md").write_text(lines + "\n", encoding="utf-8")
    save_curves(folder / "curves.png", found, config.compare.gradients)
    known = accuracy(rows, classes)
    return lines_of([lines, *remarks(known)], warnings(known))
