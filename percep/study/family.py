"""Holm's correction over everything that a study tests: one family of p-values, whatever table they stand in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from percep.explain import holm
from percep.study.strata import StratumRow
from percep.study.tables import AssociationRow, ComparisonRow


@dataclass(frozen=True)
class Family:
    """The tables that hold tests; the intervals of the other tables, and of the criteria, are not corrected.

    Attributes:
        associations: two tests each, of those that are no controls.
        comparisons: a test each.
        strata: a test per split.
    """

    associations: list[AssociationRow]
    comparisons: list[ComparisonRow]
    strata: list[StratumRow]

    def adjusted(self) -> "Family":
        """The same tables with p-values adjusted by Holm's method over all of them; undefined ones are no tests."""
        splits = dict.fromkeys(row.split for row in self.strata)
        by_split = {row.split: row.p_value for row in self.strata}
        raw = [
            *(row.shift_p for row in self.associations),
            *(row.exchange_p for row in self.associations),
            *(row.p_value for row in self.comparisons),
            *(by_split[split] for split in splits),
        ]
        found = iter(holm_where_tested(raw))
        by_shifts = [next(found) for _ in self.associations]
        by_pairs = [next(found) for _ in self.associations]
        associations = [
            replace(row, shift_adjusted=shifts, exchange_adjusted=pairs)
            for row, shifts, pairs in zip(self.associations, by_shifts, by_pairs, strict=True)
        ]
        comparisons = [replace(row, adjusted=_number(next(found))) for row in self.comparisons]
        of_split = {split: _number(next(found)) for split in splits}
        strata = [replace(row, adjusted=of_split[row.split]) for row in self.strata]
        return Family(associations, comparisons, strata)


def holm_where_tested(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values, None where there is none; NaN where one is undefined."""
    adjusted = holm([float("nan") if value is None else value for value in p_values]).tolist()
    return [None if raw is None else value for raw, value in zip(p_values, adjusted, strict=True)]


def _number(value: float | None) -> float:
    assert value is not None
    return value
