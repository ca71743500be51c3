"""What is known of each photograph of a study, in every variant: the numbers whose means the tables hold."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from percep.choices import CORRELATIONS
from percep.study.criteria import Claim
from percep.study.effects import gains
from percep.study.evidence import FOOLED, Evidence
from percep.study.tables import correlate

_MULTIPLIER = "multiplier"


@dataclass(frozen=True)
class PhotographRow:
    """One photograph in one variant.

    Attributes:
        variant: of the study.
        name: of the photograph.
        status: of `VariantResult.statuses`. What follows is known only of those that were fooled.
        label, new_class: class indices, before and after.
        confidence: the label's probability before.
        values: correlations of maps by `association_key`, and the share of the gain in margin in the two regions that
            the claim compares, at equal budget, by `gain_key`; NaN where undefined.
    """

    variant: str
    name: str
    status: str
    label: int | None
    new_class: int | None
    confidence: float | None
    values: Mapping[str, float]


def association_key(statistic: str, first: str, second: str) -> str:
    """Under which `PhotographRow.values` has a correlation of two maps."""
    return f"{statistic}_{first}_{second}"


def gain_key(region: str) -> str:
    """Under which `PhotographRow.values` has the share of the gain in margin inside a region."""
    return f"gain_{region}"


def photograph_rows(variant: str, statuses: Mapping[str, str], evidence: Evidence, claim: Claim) -> list[PhotographRow]:
    """A row per photograph of a variant, those that were not attacked included.

    Correlated are 1 - SSIM of the attack with every attribution and control map; under a floor, where they are not
    constant, the multipliers of SSIM with Grad-CAM; and 1 - SSIM of other perturbations with Grad-CAM.

    Args:
        variant: its name.
        statuses: of its photographs.
        evidence: of those that were fooled.
        claim: what is tested.
    """
    columns = dict(_columns(evidence, claim)) if evidence.names else {}
    facts = {
        name: (label, new_class, confidence, {key: float(values[i]) for key, values in columns.items()})
        for i, (name, label, new_class, confidence) in enumerate(
            zip(evidence.names, evidence.labels, evidence.new_classes, evidence.confidences, strict=True)
        )
    }
    unknown: tuple[None, None, None, dict[str, float]] = (None, None, None, {})
    return [
        PhotographRow(variant, name, status, *facts.get(name, unknown))
        for name, status in {**dict.fromkeys(evidence.names, FOOLED), **statuses}.items()
    ]


def values_by_name(rows: Iterable[PhotographRow], variant: str, key: str) -> dict[str, float]:
    """One of `PhotographRow.values` by the names of a variant's photographs, without those where it is undefined."""
    own = {row.name: row.values[key] for row in rows if row.variant == variant and key in row.values}
    return {name: value for name, value in own.items() if not math.isnan(value)}


def _columns(evidence: Evidence, claim: Claim) -> Iterator[tuple[str, np.ndarray]]:
    """Keys and `(N,)` values."""
    for first_name, first, second_name, second in _pairs(evidence):
        for statistic in CORRELATIONS:
            found = correlate(statistic, first, second, evidence.confounds, (first_name, second_name)).values
            if not first_name.startswith(_MULTIPLIER) or not np.isnan(found).all():
                yield association_key(statistic, first_name, second_name), found
    for region in ("top", claim.region):
        yield gain_key(region), gains(evidence.regions, evidence.names, claim.share, region, "equal")


def _pairs(evidence: Evidence) -> Iterator[tuple[str, Tensor, str, Tensor]]:
    attention = evidence.attention
    for name, maps in attention.items():
        yield "dissimilarity", evidence.changes["dissimilarity"], name, maps
    for name, maps in evidence.changes.items():
        if name.startswith(_MULTIPLIER):
            yield name, maps, "gradcam", attention["gradcam"]
    for name, maps in evidence.others.items():
        yield name, maps, "gradcam", attention["gradcam"]
