"""How attention moves under an attack, and whether the perturbation lies where evidence was or where it appears."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from percep.explain import Statistic, iou, pearson
from percep.study.causal import BUDGETS
from percep.study.criteria import Claim, capitalised, display_name
from percep.study.effects import gains
from percep.study.evidence import Evidence
from percep.study.movement import APPEARING, DISAPPEARING
from percep.study.tables import Comparison, Correlation, Inference, correlate

DISTANCE = "distance between Grad-CAM maps"
PLACE = "place of the perturbation"
PARTS = "share of the gain, only one part kept"
OVERLAP = "overlap of the parts"
QUESTIONS = (DISTANCE, PLACE, PARTS, OVERLAP)
"""What the rows of `movement_rows` answer."""

_MOVED = ("adversarial", "noise", "adversarial_new_class")
"""Maps whose distance from the original's Grad-CAM of its label is measured."""
_CHANGES = ("dissimilarity", "energy")
_PLACES = ("gradcam", DISAPPEARING, APPEARING)
_PARTS = ("top", APPEARING)


@dataclass(frozen=True)
class MovementRow:
    """A mean over images.

    Attributes:
        question: one of `QUESTIONS`.
        first, second: the maps; of a part, the region it is the top of, and the map's name or "".
        statistic: "pearson_distance" and "iou_distance" are 1 - Pearson's correlation and 1 - intersection over union
            of the top areas; "gain_own" and "gain_equal" are shares of the gain in margin at either budget.
        share: of the top areas, or None.
        estimate, low, high: mean over images and its interval.
        images, undefined: how many images the statistic is defined for, and is not, as where a map is constant.
    """

    question: str
    first: str
    second: str
    statistic: str
    share: float | None
    estimate: float
    low: float
    high: float
    images: int
    undefined: int


def movement_rows(evidence: Evidence, claim: Claim, inference: Inference) -> list[MovementRow]:
    """The table of the evidence of a variant; empty where the movement was not measured."""
    return [_row(key, values, inference) for key, values in _values(evidence, claim).items()]


def movement_comparisons(evidence: Evidence, claim: Claim) -> list[Comparison]:
    """The paired comparisons behind the table: noise of the same SSIM moves the map less; one place more than another.

    What keeping the parts does is compared with the other regions (`percep.study.effects.causal_comparisons`).
    """
    values = _values(evidence, claim)

    def compared(label: str, first: "_Key", second: "_Key", names: tuple[str, str]) -> Iterator[Comparison]:
        if first in values and second in values:
            yield Comparison(label, *names, values[first], values[second])

    found: list[Comparison] = []
    for statistic, share in (("pearson_distance", None), ("iou_distance", claim.share)):
        keys = [_Key(DISTANCE, "gradcam", moved, statistic, share) for moved in ("adversarial", "noise")]
        label = f"how far Grad-CAM moves, {display_name(statistic)}"
        found += compared(label, keys[0], keys[1], ("adversarial", "noise"))
    for change in _CHANGES:
        for correlation in _correlations(claim):
            label = f"{capitalised(display_name(correlation))} with {display_name(change)}, by evidence"
            for first, second in (("gradcam", APPEARING), ("gradcam", DISAPPEARING), (DISAPPEARING, APPEARING)):
                keys = [_Key(PLACE, change, place, correlation, None) for place in (first, second)]
                found += compared(label, keys[0], keys[1], (first, second))
    return found


def movement_values(evidence: Evidence, claim: Claim) -> dict[str, np.ndarray]:
    """What the means of the table are of, `(N,)`, by statistic and maps, as "pearson_distance_gradcam_noise"."""
    return {
        "_".join(name for name in (key.statistic, key.first, key.second) if name): values
        for key, values in _values(evidence, claim).items()
    }


@dataclass(frozen=True)
class _Key:
    question: str
    first: str
    second: str
    statistic: str
    share: float | None


def _values(evidence: Evidence, claim: Claim) -> dict[_Key, np.ndarray]:
    """One number per image of every row, in order."""
    # A study that was begun by an earlier version has these maps of some photographs only.
    if any(len(maps) < len(evidence.names) for maps in evidence.movement.values()) or not evidence.movement:
        return {}
    maps = {"gradcam": evidence.attention["gradcam"]} | evidence.movement
    return _distances(maps, claim) | _places(maps, evidence, claim) | _parts(maps, evidence, claim)


def _distances(maps: dict[str, Tensor], claim: Claim) -> dict[_Key, np.ndarray]:
    found = {}
    for moved in _MOVED:
        if moved in maps:
            pair = (maps["gradcam"], maps[moved])
            similar: Sequence[tuple[str, float | None, Statistic]] = (
                ("pearson_distance", None, pearson(*pair)),
                ("iou_distance", claim.share, iou(*pair, claim.share)),
            )
            for name, share, statistic in similar:
                found[_Key(DISTANCE, "gradcam", moved, name, share)] = 1 - statistic.values
    return found


def _places(maps: dict[str, Tensor], evidence: Evidence, claim: Claim) -> dict[_Key, np.ndarray]:
    return {
        _Key(PLACE, change, place, statistic, None): correlate(
            statistic, evidence.changes[change], maps[place], evidence.confounds, (change, place)
        ).values
        for change in _CHANGES
        if change in evidence.changes
        for place in _PLACES
        if place in maps
        for statistic in _correlations(claim)
    }


def _parts(maps: dict[str, Tensor], evidence: Evidence, claim: Claim) -> dict[_Key, np.ndarray]:
    found = {}
    known = {row.region for row in evidence.regions}
    for region in _PARTS:
        for budget in BUDGETS:
            if region in known:
                key = _Key(PARTS, region, "", f"gain_{budget}", claim.share)
                found[key] = gains(evidence.regions, evidence.names, claim.share, region, budget)
    if APPEARING in maps:
        overlap = iou(maps["gradcam"], maps[APPEARING], claim.share).values
        found[_Key(OVERLAP, "gradcam", APPEARING, "iou", claim.share)] = overlap
    return found


def _correlations(claim: Claim) -> tuple[Correlation, ...]:
    return tuple(dict.fromkeys((claim.statistic, "spearman")))


def _row(key: _Key, values: np.ndarray, inference: Inference) -> MovementRow:
    found = inference.interval(values)
    return MovementRow(
        key.question,
        key.first,
        key.second,
        key.statistic,
        key.share,
        found.estimate,
        found.low,
        found.high,
        found.images,
        found.undefined,
    )
