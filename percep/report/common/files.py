"""CSV and JSON files of results: numbers read back exactly, and what is undefined is an empty cell or null."""

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import pandas as pd

from percep.environment import versions

_ROWS_PER_WRITE = 1000


def write_csv(path: Path, records: Iterable[dict[str, object]], columns: list[str]) -> None:
    """Writes records in UTF-8, a thousand at a time; None, NaN and missing values are empty cells."""
    _to_csv(path, pd.DataFrame(columns=columns, dtype=object), append=False)
    remaining = iter(records)
    while chunk := list(islice(remaining, _ROWS_PER_WRITE)):
        _to_csv(path, pd.DataFrame(chunk, columns=columns, dtype=object), append=True)


def save_summary(path: Path, totals: Mapping[str, object], seed: int) -> None:
    """Writes `summary.json`: the results, the seed and `versions()`; raises `ValueError` for an undefined number."""
    summary = {**totals, "seed": seed, "versions": versions()}
    path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _to_csv(path: Path, table: pd.DataFrame, *, append: bool) -> None:
    table.to_csv(
        path,
        mode="a" if append else "w",
        header=not append,
        index=False,
        encoding="utf-8",
        errors="backslashreplace",
        lineterminator="\n",
    )
