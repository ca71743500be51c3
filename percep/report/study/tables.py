"""The tables of a study as files."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from percep.report.common.files import write_csv
from percep.report.common.verdict import accuracy_of
from percep.study import (
    AssociationRow,
    CausalRow,
    ComparisonRow,
    CurveRow,
    Findings,
    MovementRow,
    PhotographRow,
    RegionRow,
    StratumRow,
)

_TABLES: Mapping[str, tuple[type, Callable[[Findings], Sequence[object]]]] = {
    "associations": (AssociationRow, lambda findings: findings.associations),
    "comparisons": (ComparisonRow, lambda findings: findings.comparisons),
    "causal": (CausalRow, lambda findings: findings.causal),
    "movement": (MovementRow, lambda findings: findings.movement),
    "strata": (StratumRow, lambda findings: findings.strata),
    "regions": (RegionRow, lambda findings: findings.regions),
    "curves": (CurveRow, lambda findings: findings.curves),
}

STUDY_TABLES = (*_TABLES, "variants", "photographs")
"""Regions, curves and photographs have rows per photograph; the others are over photographs."""


def write_study_table(path: Path, name: str, findings: Findings) -> None:
    """Writes one of `STUDY_TABLES` as CSV, UTF-8, undefined numbers empty; a curve's progress is a JSON list."""
    if name in _TABLES:
        kind, rows_of = _TABLES[name]
        columns = [field.name for field in fields(kind)]
        records = [{column: _cell(getattr(row, column)) for column in columns} for row in rows_of(findings)]
    else:
        records = (_variant_records if name == "variants" else _photograph_records)(findings)
        columns = [*dict.fromkeys(column for record in records for column in record)]
    write_csv(path, records, columns)


def _variant_records(findings: Findings) -> list[dict[str, object]]:
    """A row per variant, with the interval of each criterion."""
    return [
        {
            "variant": row.name,
            "model": row.model,
            "fooled": row.fooled,
            "correct": row.correct,
            "problem": row.problem,
            **{
                column: value
                for criterion in row.criteria
                for column, value in (
                    (criterion.name, criterion.interval.estimate),
                    (f"{criterion.name}_low", criterion.interval.low),
                    (f"{criterion.name}_high", criterion.interval.high),
                    (f"{criterion.name}_met", criterion.met),
                )
            },
        }
        for row in findings.sweep
    ]


def _photograph_records(findings: Findings) -> list[dict[str, object]]:
    """A row per photograph and variant, a column per value that any of them has."""
    plain = [field.name for field in fields(PhotographRow) if field.name != "values"]
    return [{**{name: getattr(row, name) for name in plain}, **row.values} for row in findings.photographs]


def study_accuracy(findings: Findings, classes: int | None) -> dict[str, object]:
    """What is known of the network's accuracy in the main variant, in the form of `comparison.tables.accuracy`."""
    given = [name for name, labelled in findings.labelled.items() if labelled]
    correct = sum(findings.statuses[name] != "misclassified" for name in given)
    return accuracy_of(correct, len(given), len(findings.labelled) - len(given), classes)


def summarise_study(findings: Findings, classes: int | None = None) -> dict[str, object]:
    """The verdict, the claim, every variant by the criteria, the main variant's `study_accuracy` and key figures."""
    return {
        "verdict": findings.verdict,
        "complete": all(row.complete for row in findings.sweep),
        "claim": asdict(findings.claim),
        "photographs": findings.counts,
        **study_accuracy(findings, classes),
        "variants": [
            {
                "name": row.name,
                "model": row.model,
                "fooled": row.fooled,
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
        "movement": [_finite_values(asdict(row)) for row in findings.movement],
        "strata": [_finite_values(asdict(row)) for row in findings.strata],
        "zero_maps": findings.zero,
    }


def _finite_values(row: dict[str, object]) -> dict[str, object]:
    return {name: _finite(value) for name, value in row.items()}


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, tuple) else value
