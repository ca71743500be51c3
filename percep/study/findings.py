"""The results of a study: every table, the criteria of each variant, and the verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from percep.study.attributions import is_attribution
from percep.study.causal import CurveRow, RegionRow
from percep.study.criteria import Claim, Criterion, capitalised, display_name, evaluate_criteria, verdict
from percep.study.displacement import MovementRow, movement_comparisons, movement_rows
from percep.study.effects import CausalRow, causal_comparisons, causal_rows
from percep.study.evidence import FOOLED, Evidence
from percep.study.family import Family
from percep.study.photographs import PhotographRow, photograph_rows
from percep.study.strata import StratumRow, stratum_rows
from percep.study.tables import (
    AssociationRow,
    Comparison,
    ComparisonRow,
    Correlation,
    Inference,
    association_rows,
    comparison_rows,
    control_row,
    correlate,
)
from percep.summaries import by_status

# Also without confounds: a centred Gaussian and an edge map are confounds themselves, whose residuals are noise.
_CONTROL_STATISTICS: tuple[Correlation, ...] = ("spearman", "partial_spearman")

PENDING = "pending"
"""The status of a photograph that has not been attacked yet."""


@dataclass(frozen=True)
class VariantResult:
    """What was found in one variant of a study.

    Attributes:
        name: as reports print it: what differs from the main variant.
        model: the network's name.
        statuses: of every photograph: "fooled", "not_found", "misclassified", "already_adversarial", "not_finite",
            "unreadable: reason", or `PENDING` where the study was interrupted.
        evidence: of the photographs that were fooled.
        problem: why the variant could not be run, or None.
        complete: every photograph that was to be attacked was.
        labelled: whether a label was given, of every photograph that the network has a finite prediction of.
        missing: how many labels without a photograph some statuses stand for.
    """

    name: str
    model: str
    evidence: Evidence = field(default_factory=Evidence)
    statuses: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    complete: bool = False
    labelled: Mapping[str, bool] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def fooled(self) -> int:
        """How many photographs were fooled."""
        return len(self.evidence.names)

    @property
    def correct(self) -> int:
        """How many were classified correctly to begin with, or have no label."""
        return sum(status in (FOOLED, "not_found") for status in self.statuses.values())


@dataclass(frozen=True)
class SweepRow:
    """The criteria in one variant; `criteria` is empty if no photograph was fooled or the variant could not be run.

    `complete` says that every photograph that was to be attacked was, or that the variant could not be run.
    """

    name: str
    model: str
    fooled: int
    correct: int
    criteria: tuple[Criterion, ...]
    problem: str | None
    complete: bool


@dataclass(frozen=True)
class Findings:
    """All tables of a study; p-values of associations, comparisons and strata are adjusted as one family.

    Attributes:
        verdict: the result in a sentence.
        claim: what the criteria test.
        criteria: of the main variant.
        sweep: every variant, the main one first.
        associations: the attack's maps with attributions, in the main variant and in the others, with tests; then the
            main variant's controls, without tests.
        comparisons: paired comparisons.
        causal: the effect of restricting the perturbation to regions, in every variant.
        movement: how attention moves, and where the perturbation lies, in the main variant.
        strata: the association in groups of photographs of the main variant.
        regions, curves: per photograph, of the main variant.
        photographs: a row per photograph and variant, the main variant first.
        zero: how many maps of each kind were zero everywhere.
        statuses: of every photograph.
        labelled, missing: as in `VariantResult`, of the main variant.
    """

    verdict: str
    claim: Claim
    criteria: tuple[Criterion, ...]
    sweep: list[SweepRow]
    associations: list[AssociationRow]
    comparisons: list[ComparisonRow]
    causal: list[CausalRow]
    movement: list[MovementRow]
    strata: list[StratumRow]
    regions: list[RegionRow]
    curves: list[CurveRow]
    photographs: list[PhotographRow]
    zero: dict[str, int]
    statuses: dict[str, str]
    labelled: Mapping[str, bool]
    missing: Mapping[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """How many photographs have each kind of status, and labels without a photograph."""
        return by_status((status, self.missing.get(name, 0)) for name, status in self.statuses.items())

    @property
    def done(self) -> int:
        """How many photographs are not pending."""
        return sum(status != PENDING and name not in self.missing for name, status in self.statuses.items())


def analyse(
    variants: Iterable[VariantResult],
    claim: Claim,
    shares: Sequence[float],
    inference: Inference,
    strata: Sequence[str] = (),
    first_class: int | None = None,
) -> Findings:
    """The tables and the verdict of a study; at least one photograph of the main variant must have been fooled.

    Args:
        variants: the main one first, which was measured in full. One of the others at a time is held in memory.
        claim: what is tested.
        shares: of overlaps and causal tests.
        inference: of every interval and test.
        strata: splits of the main variant's photographs, of `percep.choices.STRATA`.
        first_class: index of the logit of ImageNet's first class; None where the classes are not its thousand.
    """
    remaining = iter(variants)
    main = next(remaining)
    evidence = main.evidence
    sweep = [_sweep_row(main, claim, inference)]
    associations = _main_associations(main, shares, inference)
    causal = causal_rows(main.name, evidence.regions, inference)
    photographs = photograph_rows(main.name, main.statuses, evidence, claim)
    for variant in remaining:
        sweep.append(_sweep_row(variant, claim, inference))
        causal += causal_rows(variant.name, variant.evidence.regions, inference)
        photographs += photograph_rows(variant.name, variant.statuses, variant.evidence, claim)
        if variant.fooled:
            associations += _variant_associations(variant, shares, inference)
        del variant  # frees it before the next one is read
    controls, comparisons = _compared(main, claim, shares, inference)
    tested = Family(
        associations + controls,
        comparison_rows(comparisons, inference),
        stratum_rows(evidence, claim, strata, first_class, inference),
    ).adjusted()
    return Findings(
        verdict=verdict(sweep[0].criteria),
        claim=claim,
        criteria=sweep[0].criteria,
        sweep=sweep,
        associations=tested.associations,
        comparisons=tested.comparisons,
        causal=causal,
        movement=movement_rows(evidence, claim, inference),
        strata=tested.strata,
        regions=evidence.regions,
        curves=evidence.curves,
        photographs=photographs,
        zero=evidence.zero,
        statuses=main.statuses,
        labelled=main.labelled,
        missing=main.missing,
    )


def _main_associations(main: VariantResult, shares: Sequence[float], inference: Inference) -> list[AssociationRow]:
    """Every map of the attack's perturbation with every attribution."""
    evidence = main.evidence
    pairs = [
        (change, values, name, evidence.attention[name])
        for change, values in evidence.changes.items()
        for name in evidence.attention
        if is_attribution(name)
    ]
    return list(association_rows(main.name, pairs, evidence.confounds, shares, inference))


def _compared(
    main: VariantResult, claim: Claim, shares: Sequence[float], inference: Inference
) -> tuple[list[AssociationRow], list[Comparison]]:
    """The associations of controls, and every paired comparison of the main variant."""
    evidence = main.evidence
    associations: list[AssociationRow] = []
    comparisons: list[Comparison] = []
    for statistic in dict.fromkeys((*_CONTROL_STATISTICS, claim.statistic)):
        rows, compared = _controls(main.name, statistic, evidence, inference)
        associations += rows
        comparisons += compared
    comparisons += causal_comparisons(evidence, shares)
    return associations, comparisons + movement_comparisons(evidence, claim)


def _sweep_row(variant: VariantResult, claim: Claim, inference: Inference) -> SweepRow:
    criteria: tuple[Criterion, ...] = ()
    if variant.fooled:
        criteria = evaluate_criteria(claim, variant.evidence, inference)
    complete = variant.problem is not None or variant.complete
    return SweepRow(variant.name, variant.model, variant.fooled, variant.correct, criteria, variant.problem, complete)


def _variant_associations(
    variant: VariantResult, shares: Sequence[float], inference: Inference
) -> list[AssociationRow]:
    """A variant's maps with Grad-CAM: 1 - SSIM, and with a floor the multiplier of SSIM."""
    evidence = variant.evidence
    attention = evidence.attention["gradcam"]
    pairs = [(change, values, "gradcam", attention) for change, values in evidence.changes.items()]
    return list(association_rows(variant.name, pairs, evidence.confounds, shares, inference))


def _controls(
    variant: str,
    statistic: Correlation,
    evidence: Evidence,
    inference: Inference,
) -> tuple[list[AssociationRow], list[Comparison]]:
    """Other perturbations with Grad-CAM, and the attack's perturbation with control maps."""
    others, attention, confounds = evidence.others, evidence.attention, evidence.confounds
    rows: list[AssociationRow] = []
    values: dict[tuple[str, str], np.ndarray] = {}

    def measure(first_name: str, first: Tensor, second_name: str) -> None:
        names = (first_name, second_name)
        found = correlate(statistic, first, attention[second_name], confounds, names)
        values[names] = found.values
        rows.append(control_row(variant, names, statistic, found, inference))

    for name, maps in others.items():
        measure(name, maps, "gradcam")
    change = evidence.changes["dissimilarity"]
    for name in attention:
        if not is_attribution(name):
            measure("dissimilarity", change, name)
        else:  # its row is in the table already, with tests
            names = ("dissimilarity", name)
            values[names] = correlate(statistic, change, attention[name], confounds, names).values
    label = capitalised(display_name(statistic))
    compared = [
        Comparison(
            f"{label} with Grad-CAM, by perturbation",
            "first_order",
            name,
            values["first_order", "gradcam"],
            values[name, "gradcam"],
        )
        for name in others
        if name != "first_order"
    ]
    compared += [
        Comparison(
            f"{label} with 1 − SSIM, by map",
            "gradcam",
            name,
            values["dissimilarity", "gradcam"],
            values["dissimilarity", name],
        )
        for name in attention
        if name != "gradcam"
    ]
    return rows, compared
