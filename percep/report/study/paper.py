"""The tables of a study for a paper."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from percep.report.common.columns import Column
from percep.report.common.latex import write_latex
from percep.report.study.columns import ASSOCIATIONS, CAUSAL, COMPARISONS, MOVEMENT, STRATA, VARIANTS
from percep.study import AssociationRow, Findings


def _by_variant(findings: Findings) -> list[AssociationRow]:
    """The associations of each variant together; those of the main variant's controls are last otherwise."""
    order = {row.name: place for place, row in enumerate(findings.sweep)}
    return sorted(findings.associations, key=lambda row: order[row.variant])


_TABLES: Mapping[str, tuple[Sequence[Column], Callable[[Findings], Sequence[object]]]] = {
    "variants": (VARIANTS, lambda findings: findings.sweep),
    "associations": (ASSOCIATIONS, _by_variant),
    "comparisons": (COMPARISONS, lambda findings: findings.comparisons),
    "causal": (CAUSAL, lambda findings: findings.causal),
    "movement": (MOVEMENT, lambda findings: findings.movement),
    "strata": (STRATA, lambda findings: findings.strata),
}

PAPER_TABLES = tuple(_TABLES)
"""Those of `STUDY_TABLES` that are over photographs, as the page shows them."""


def write_paper_table(path: Path, name: str, findings: Findings) -> None:
    """Writes one of `PAPER_TABLES` in LaTeX."""
    columns, rows_of = _TABLES[name]
    write_latex(path, columns, rows_of(findings))
