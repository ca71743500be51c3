"""The report of a study: the verdict by its criteria, the plots behind it, photographs with their maps, and tables."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from percep.report.common.columns import words
from percep.report.common.embedded import Legend, budget_legend, gradcam_legend, ssim_legend
from percep.report.common.page import Facts, save_page
from percep.report.common.verdict import remarks, warnings
from percep.report.study.columns import (
    ASSOCIATIONS,
    CAUSAL,
    COMPARISONS,
    MOVEMENT,
    STRATA,
    photograph_columns,
    variant_columns,
)
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
        variant_columns=variant_columns(findings.sweep),
        plots=study_plots(findings),
        exhibits=exhibits,
        omitted=fooled - len(exhibits),
        legends=_legends(),
        associations=findings.associations,
        association_columns=ASSOCIATIONS,
        comparisons=findings.comparisons,
        comparison_columns=COMPARISONS,
        causal=findings.causal,
        causal_columns=CAUSAL,
        movement=findings.movement,
        movement_columns=MOVEMENT,
        strata=findings.strata,
        strata_columns=STRATA,
        photographs=[row for row in findings.photographs if row.variant == findings.sweep[0].name],
        photograph_columns=photograph_columns(findings.claim),
        anchors={name: f"photograph-{place}" for place, name in enumerate(exhibits, start=1)},
        zero={display_name(name): count for name, count in findings.zero.items() if count},
        done=findings.done,
    )


def _legends() -> list[Legend]:
    perturbation = "positive part in multiples of the uniform share, logarithmic"
    classifier = "relative to the 99th percentile of each map, or of the map on whose scale it is"
    return [
        ssim_legend(),
        replace(budget_legend(), title="Of the perturbation", note=perturbation),
        replace(gradcam_legend(), title="Of the classifier", note=classifier),
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
