"""Tables for a paper, in LaTeX with the rules of booktabs."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from percep.report.common.columns import UNKNOWN, Column

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "−": "$-$",
    "×": r"$\times$",
    "→": r"$\to$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def write_latex(path: Path, columns: Sequence[Column], rows: Iterable[object]) -> None:
    """Writes a `tabular`, a line of the file per row, which needs `booktabs`; UTF-8.

    What is unknown is a dash. Where rows share the first column's text, a rule separates those that differ.
    """
    cells = [[_cell(column, row) for column in columns] for row in rows]
    firsts = [row[0] for row in cells]
    grouped = len(set(firsts)) < len(firsts)
    body: list[str] = []
    for (before, first), row in zip(pairwise(["", *firsts]), cells, strict=True):
        body += [r"\midrule"] if grouped and body and first != before else []
        body.append(_line(row))
    lines = [
        r"% \usepackage{booktabs}",
        f"\\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in columns)}}}",
        r"\toprule",
        _line([escaped(column.title) for column in columns]),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


def escaped(text: str) -> str:
    """Text as LaTeX prints it, on one line."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def _cell(column: Column, row: object) -> str:
    text = column.text(row)
    if text == UNKNOWN:
        return "--"
    return _MINUS.sub("$-$", escaped(text)) if column.numeric else escaped(text)


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"
