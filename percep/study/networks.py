"""Two networks on the same photographs: does one network's attention say where the other's perturbation falls?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from percep.errors import InputError
from percep.explain import Interval, paired_tests
from percep.study.criteria import Claim
from percep.study.evidence import Evidence
from percep.study.family import holm_where_tested
from percep.study.findings import VariantResult
from percep.study.tables import Correlation, Inference, correlate

OWN, OTHER, ADVANTAGE, SAME_CHANGE, SAME_ATTENTION = "own", "other", "own - other", "change", "attention"
RELATIONS = (OWN, OTHER, ADVANTAGE, SAME_CHANGE, SAME_ATTENTION)
"""What the rows of `across_networks` hold."""


@dataclass(frozen=True)
class NetworkRow:
    """A mean over the photographs that both networks were fooled on.

    Attributes:
        network: whose perturbation it is about; both names for what is the same for both.
        relation: its map of change with its "own" attention map, or with the "other" network's; "own - other", the
            paired difference; or the agreement of both networks' maps of "change" or of "attention".
        statistic: of the two maps, in partial correlations given the confounds of the perturbation's photograph.
        estimate, low, high: mean over photographs and its interval.
        images, undefined: how many photographs it is defined for, and is not.
        p_value, adjusted: of Wilcoxon's signed-rank test of the difference, two-sided, and the same adjusted by Holm's
            method over all rows with a test; None in the others.
    """

    network: str
    relation: str
    statistic: str
    estimate: float
    low: float
    high: float
    images: int
    undefined: int
    p_value: float | None = None
    adjusted: float | None = None


def across_networks(
    first: VariantResult, second: VariantResult, claim: Claim, inference: Inference
) -> list[NetworkRow]:
    """The maps of two networks compared on the photographs of either that both were fooled on, matched by name.

    The claim's statistic and Spearman's correlation of each network's perturbation with its own attention map and with
    the other's, and of both networks' perturbations, and of both attention maps.

    Raises:
        InputError: no photograph in common, or block means of different shapes.
    """
    pair = _matched(first.evidence, second.evidence)
    names = (first.model, second.model)
    if names[0] == names[1]:
        names = (first.name, second.name)
    rows: list[NetworkRow] = []
    for statistic in dict.fromkeys((claim.statistic, "spearman")):
        for place in (0, 1):
            rows += _of_network(names[place], pair[place], pair[1 - place], claim, statistic, inference)
        for relation, group, name in (
            (SAME_CHANGE, "changes", claim.change),
            (SAME_ATTENTION, "attention", claim.attention),
        ):
            maps = [getattr(evidence, group)[name] for evidence in pair]
            values = correlate(statistic, maps[0], maps[1], pair[0].confounds, names).values
            rows.append(_row(" and ".join(names), relation, statistic, inference.interval(values)))
    adjusted = holm_where_tested([row.p_value for row in rows])
    return [replace(row, adjusted=value) for row, value in zip(rows, adjusted, strict=True)]


def _of_network(
    name: str, own: Evidence, other: Evidence, claim: Claim, statistic: Correlation, inference: Inference
) -> list[NetworkRow]:
    change = own.changes[claim.change]
    values = {
        relation: correlate(
            statistic, change, evidence.attention[claim.attention], own.confounds, (claim.change, claim.attention)
        ).values
        for relation, evidence in ((OWN, own), (OTHER, other))
    }
    rows = [_row(name, relation, statistic, inference.interval(found)) for relation, found in values.items()]
    test = paired_tests({ADVANTAGE: (values[OWN], values[OTHER])})[ADVANTAGE]
    difference = _row(name, ADVANTAGE, statistic, inference.interval(values[OWN] - values[OTHER]))
    return [*rows, replace(difference, p_value=test.p_value)]


def _row(network: str, relation: str, statistic: str, found: Interval) -> NetworkRow:
    return NetworkRow(
        network, relation, statistic, found.estimate, found.low, found.high, found.images, found.undefined
    )


def _matched(first: Evidence, second: Evidence) -> tuple[Evidence, Evidence]:
    """The maps of the photographs that are in both, in the order of the first."""
    places = {name: place for place, name in enumerate(second.names)}
    common = [name for name in first.names if name in places]
    if not common:
        raise InputError("the networks have no photograph in common that both were fooled on")
    shapes = [tuple(next(iter(evidence.changes.values())).shape[1:]) for evidence in (first, second)]
    if shapes[0] != shapes[1]:
        raise InputError(f"maps of two networks can be compared block by block only, got {shapes[0]} and {shapes[1]}")
    own = {name: place for place, name in enumerate(first.names)}
    return _chosen(first, [own[name] for name in common]), _chosen(second, [places[name] for name in common])


def _chosen(evidence: Evidence, places: Sequence[int]) -> Evidence:
    """The maps of some photographs."""
    index = torch.tensor(places)

    def chosen(maps: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: values[index] for name, values in maps.items()}

    return Evidence(
        names=[evidence.names[place] for place in places],
        changes=chosen(evidence.changes),
        attention=chosen(evidence.attention),
        confounds=chosen(evidence.confounds),
    )
