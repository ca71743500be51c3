"""The tables of a study as files."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from percep.report.tables import save_summary, write_csv
from percep.study import (
    AssociationRow,
    CausalRow,
    ComparisonRow,
    CurveRow,
    Findings,
    RegionRow,
)
from percep.study.findings import PENDING


def write_study(folder: Path, findings: Findings, seed: int) -> None:
    """Writes a study's tables into an existing folder, UTF-8, undefined numbers empty or null.

    `summary.json`: the verdict, the criteria of every variant, counts of statuses and zero maps, seed and versions.
    `associations.csv`, `comparisons.csv`, `causal.csv`: over photographs. `regions.csv`, `curves.csv`: per photograph
    of the main variant; a curve's progress is a JSON list.
    """
    tables: tuple[tuple[str, type, Sequence[object]], ...] = (
        ("associations", AssociationRow, findings.associations),
        ("comparisons", ComparisonRow, findings.comparisons),
        ("causal", CausalRow, findings.causal),
        ("regions", RegionRow, findings.regions),
        ("curves", CurveRow, findings.curves),
    )
    for name, kind, rows in tables:
        columns = [field.name for field in fields(kind)]
        records = [{column: _cell(getattr(row, column)) for column in columns} for row in rows]
        write_csv(folder / f"{name}.csv", records, columns)
    save_summary(folder / "summary.json", summarise_study(findings), seed)


def summarise_study(findings: Findings) -> dict[str, object]:
    """The verdict, the claim, every variant by the criteria, and the main variant's key figures."""
    statuses = [status.partition(":")[0] for status in findings.statuses.values()]
    return {
        "verdict": findings.verdict,
        "complete": PENDING not in findings.statuses.values() and all(row.complete for row in findings.sweep),
        "claim": asdict(findings.claim),
        "photographs": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
        "variants": [
            {
                "name": row.name,
                "model": row.model,
                "turned": row.turned,
                "correct": row.correct,
                "problem": row.problem,
                "criteria": [
                    {
                        "name": criterion.name,
                        "met": criterion.met,
                        "estimate": _finite(criterion.interval.estimate),
                        "low": _finite(criterion.interval.low),
                        "high": _finite(criterion.interval.high),
                        "first": _finite(criterion.first),
                        "second": _finite(criterion.second),
                        "images": criterion.interval.images,
                        "undefined": criterion.interval.undefined,
                        "sentence": criterion.sentence,
                    }
                    for criterion in row.criteria
                ],
            }
            for row in findings.sweep
        ],
        "associations": [_finite_values(asdict(row)) for row in findings.associations],
        "comparisons": [_finite_values(asdict(row)) for row in findings.comparisons],
        "causal": [_finite_values(asdict(row)) for row in findings.causal],
        "zero_maps": findings.zero,
    }


def _finite_values(row: dict[str, object]) -> dict[str, object]:
    return {name: _finite(value) for name, value in row.items()}


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, tuple) else value
