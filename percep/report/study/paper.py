"""The tables of a study for a paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from percep.report.common.columns import Column
from percep.report.common.latex import write_latex
from percep.report.study.columns import ASSOCIATIONS, CAUSAL, COMPARISONS, MOVEMENT, STRATA, variant_columns
from percep.study import Findings

PAPER_TABLES = ("variants", "associations", "comparisons", "causal", "movement", "strata")
"""Those of `percep.report.study.tables.STUDY_TABLES` that are over photographs."""


def write_paper_table(path: Path, name: str, findings: Findings) -> None:
    """Writes one of `PAPER_TABLES` in LaTeX, with the columns it has on the page.

    The associations of a variant are together; in other tables those of the main variant's controls are last.
    """
    order = {row.name: place for place, row in enumerate(findings.sweep)}
    associations = sorted(findings.associations, key=lambda row: order[row.variant])
    tables: Mapping[str, tuple[Sequence[Column], Sequence[object]]] = {
        "variants": (variant_columns(findings.sweep), findings.sweep),
        "associations": (ASSOCIATIONS, associations),
        "comparisons": (COMPARISONS, findings.comparisons),
        "causal": (CAUSAL, findings.causal),
        "movement": (MOVEMENT, findings.movement),
        "strata": (STRATA, findings.strata),
    }
    write_latex(path, *tables[name])
