"""The columns of a study's tables, on its page and for a paper."""

import math
from collections.abc import Callable, Sequence

from percep.explain import Interval
from percep.report.common.columns import UNKNOWN, Column, number, words, yes_or_no
from percep.study import Claim, Criterion, SweepRow
from percep.study.criteria import display_name
from percep.study.photographs import association_key, gain_key

_CRITERIA = {
    "association": "Association",
    "control": "Above the control",
    "causal": "Above the other region",
    "multiplier": "Multiplier above the control",
}


def variant_columns(variants: Sequence[SweepRow]) -> tuple[Column, ...]:
    """Of a study's variants, with the criteria that any of them has."""
    known = {criterion.name for row in variants for criterion in row.criteria}
    return (
        Column("Variant", lambda row: row.name),
        Column("Fooled", lambda row: row.fooled, number, numeric=True),
        Column("Of", lambda row: row.correct, number, numeric=True),
        *(column for name, title in _CRITERIA.items() if name in known for column in _criterion(title, name)),
        Column("Problem", lambda row: row.problem),
    )


def photograph_columns(claim: Claim) -> tuple[Column, ...]:
    """Of `PhotographRow`s of the main variant: what the criteria are means of."""

    def of(title: str, key: str) -> Column:
        return Column(title, lambda row: row.values.get(key), _signed, numeric=True)

    def associated(title: str, change: str) -> Column:
        return of(title, association_key(claim.statistic, change, claim.attention))

    return (
        Column("Photograph", lambda row: row.name),
        Column("Status", lambda row: row.status, words),
        Column("Confidence", lambda row: row.confidence, lambda share: f"{share:.1%}", numeric=True),
        associated("Association", claim.change),
        associated("First order", "first_order"),
        associated("Control", claim.control),
        of("Gain in the top", gain_key("top")),
        of("Gain in the other region", gain_key(claim.region)),
    )


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.3f}"


def _written(interval: Interval) -> str:
    if math.isnan(interval.estimate):
        return UNKNOWN
    bounds = "" if math.isnan(interval.low) else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.estimate:.2f}{bounds}"


def _criterion(title: str, name: str) -> tuple[Column, Column]:
    def of(row: SweepRow) -> Criterion | None:
        return next((criterion for criterion in row.criteria if criterion.name == name), None)

    def interval(row: SweepRow) -> Interval | None:
        found = of(row)
        return None if found is None else found.interval

    def estimate(row: SweepRow) -> float | None:
        found = of(row)
        return None if found is None else found.interval.estimate

    def met(row: SweepRow) -> bool | None:
        found = of(row)
        return None if found is None else found.met

    return (
        Column(title, interval, _written, numeric=True, order=estimate),
        Column("Met", met, yes_or_no),
    )


def _column(title: str, name: str, write: Callable[..., str] = _signed) -> Column:
    return Column(title, lambda row: getattr(row, name), write, numeric=True)


ASSOCIATIONS = (
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
COMPARISONS = (
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
CAUSAL = (
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
MOVEMENT = (
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
STRATA = (
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
