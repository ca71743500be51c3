"""The report of a study: the verdict by its criteria, the plots behind it, photographs with their maps, and tables."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from percep.report.common.columns import UNKNOWN, Column, number, words, yes_or_no
from percep.report.common.embedded import Legend, budget_legend, gradcam_legend, ssim_legend
from percep.report.common.page import Facts, save_page
from percep.report.common.verdict import remarks, warnings
from percep.report.study.gallery import StudyExhibit
from percep.report.study.plots import study_plots
from percep.report.study.tables import study_accuracy
from percep.study import Findings
from percep.study.criteria import display_name
from percep.study.evidence import FOOLED


def save_study_report(
    path: Path,
    facts: Facts,
    findings: Findings,
    exhibits: Mapping[str, StudyExhibit],
    classes: int | None = None,
) -> None:
    """Writes the page: verdict, criteria, variants, plots, gallery, tables, and how to repeat the run.

    Args:
        path: the file to write; the adversarial images are linked as `adversarial/NAME.png` beside it.
        facts: of the run.
        findings: of the study.
        exhibits: the pictures of photographs that were fooled, by name.
        classes: of the network, where known.
    """
    known = study_accuracy(findings, classes)
    fooled = sum(status == FOOLED for status in findings.statuses.values())
    save_page(
        path,
        "study.html",
        facts,
        verdict=findings.verdict,
        warnings=warnings(known),
        remarks=remarks(known),
        figures=_figures(findings),
        criteria=findings.criteria,
        variants=findings.sweep,
        variant_columns=_VARIANTS,
        plots=study_plots(findings),
        exhibits=exhibits,
        omitted=fooled - len(exhibits),
        legends=_legends(),
        associations=findings.associations,
        association_columns=_ASSOCIATIONS,
        comparisons=findings.comparisons,
        comparison_columns=_COMPARISONS,
        causal=findings.causal,
        causal_columns=_CAUSAL,
        movement=findings.movement,
        movement_columns=_MOVEMENT,
        strata=findings.strata,
        strata_columns=_STRATA,
        statuses=list(findings.statuses.items()),
        status_columns=_STATUSES,
        anchors={name: f"photograph-{place}" for place, name in enumerate(exhibits, start=1)},
        zero={display_name(name): count for name, count in findings.zero.items() if count},
        done=findings.done,
    )


def _legends() -> list[Legend]:
    perturbation = "positive part in multiples of the uniform share, logarithmic"
    return [
        ssim_legend(),
        replace(budget_legend(), title="Of the perturbation", note=perturbation),
        replace(gradcam_legend(), title="Of the classifier", note="relative to the 99th percentile of each map"),
    ]


def _figures(findings: Findings) -> list[tuple[str, str]]:
    main = findings.sweep[0]
    left_out = [(words(status).capitalize(), f"{n}") for status, n in findings.counts.items() if status != FOOLED]
    return [
        ("Photographs fooled", f"{main.fooled} of {main.correct}"),
        *[(_FIGURES[criterion.name], f"{criterion.interval.estimate:.2f}") for criterion in findings.criteria],
        *left_out,
    ]


_FIGURES = {
    "association": "Association",
    "control": "Above the control",
    "causal": "Effect above the other region",
    "multiplier": "Multiplier above the control",
}


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.3f}"


def _criterion(title: str, name: str) -> tuple[Column, Column]:
    def of(row: Any) -> Any:
        return next((criterion for criterion in row.criteria if criterion.name == name), None)

    return (
        Column(title, lambda row: None if of(row) is None else of(row).interval.estimate, _signed, numeric=True),
        Column("Met", lambda row: None if of(row) is None else of(row).met, yes_or_no),
    )


def _column(title: str, name: str, write: Callable[..., str] = _signed) -> Column:
    return Column(title, lambda row: getattr(row, name), write, numeric=True)


_VARIANTS = (
    Column("Variant", lambda row: row.name),
    Column("Fooled", lambda row: row.fooled, number, numeric=True),
    Column("Of", lambda row: row.correct, number, numeric=True),
    *_criterion("Association", "association"),
    *_criterion("Above the control", "control"),
    *_criterion("Above the other region", "causal"),
    *_criterion("Multiplier above the control", "multiplier"),
    Column("Problem", lambda row: row.problem),
)
_ASSOCIATIONS = (
    Column("Variant", lambda row: row.variant),
    Column("First", lambda row: row.first, display_name),
    Column("Second", lambda row: row.second, display_name),
    Column("Statistic", lambda row: row.statistic, display_name),
    _column("Area", "share"),
    _column("Mean", "estimate"),
    _column("Low", "low"),
    _column("High", "high"),
    _column("Chance", "chance"),
    _column("Toroidal shift p", "shift_p", number),
    _column("Shift p, Holm", "shift_adjusted", number),
    _column("Other images", "other"),
    _column("Permutation p", "exchange_p", number),
    _column("Permutation p, Holm", "exchange_adjusted", number),
    _column("Images", "images", number),
    _column("Undefined", "undefined", number),
)
_COMPARISONS = (
    Column("Question", lambda row: row.question),
    Column("First", lambda row: row.first, display_name),
    Column("Second", lambda row: row.second, display_name),
    _column("First mean", "first_mean"),
    _column("Second mean", "second_mean"),
    _column("Difference", "difference"),
    _column("Low", "low"),
    _column("High", "high"),
    _column("Effect size", "effect"),
    _column("p", "p_value", number),
    _column("p, Holm", "adjusted", number),
    _column("Undefined", "undefined", number),
)
_CAUSAL = (
    Column("Variant", lambda row: row.variant),
    Column("Region", lambda row: row.region, display_name),
    _column("Area of the top", "share"),
    Column("Budget", lambda row: row.budget),
    _column("Share of 1 − SSIM", "mass"),
    _column("Share of the gain", "gain"),
    _column("Low", "low"),
    _column("High", "high"),
    _column("Still adversarial", "flipped"),
    _column("Low", "flipped_low"),
    _column("High", "flipped_high"),
    _column("Out of reach", "out_of_reach", number),
    _column("Texture distance", "distance"),
    _column("Gain per unit of 1 − SSIM", "per_unit"),
    _column("Low", "per_unit_low"),
    _column("High", "per_unit_high"),
)
_MOVEMENT = (
    Column("Question", lambda row: row.question),
    Column("First", lambda row: row.first, display_name),
    Column("Second", lambda row: row.second, display_name),
    Column("Statistic", lambda row: row.statistic, display_name),
    _column("Area", "share"),
    _column("Mean", "estimate"),
    _column("Low", "low"),
    _column("High", "high"),
    _column("Images", "images", number),
    _column("Undefined", "undefined", number),
)
_STRATA = (
    Column("Split", lambda row: row.split, words),
    Column("Group", lambda row: row.group),
    _column("Median", "threshold"),
    _column("Mean", "estimate"),
    _column("Low", "low"),
    _column("High", "high"),
    _column("Images", "images", number),
    _column("Undefined", "undefined", number),
    _column("In neither", "outside", number),
    _column("Difference", "difference"),
    _column("p", "p_value", number),
    _column("p, Holm", "adjusted", number),
)
_STATUSES = (
    Column("Photograph", lambda row: row[0]),
    Column("Status", lambda row: row[1], words),
)
