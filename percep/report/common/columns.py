"""The columns of a report's tables: their values, formats and sort keys."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from percep.report.common.panel import cut_off

UNKNOWN = "–"


@dataclass(frozen=True)
class Column:
    """A column of a table that sorts.

    Attributes:
        title: its heading.
        value: of a row; None where it is unknown.
        write: formats a known value.
        numeric: whether it is sorted as a number, and set to the right.
        order: of a row, what it is sorted by where that is not its value; None where it is unknown.
    """

    title: str
    value: Callable[[Any], object]
    write: Callable[..., str] = str
    numeric: bool = False
    order: Callable[[Any], object] | None = None

    def text(self, row: object) -> str:
        """The value of the row in words."""
        value = self.value(row)
        return UNKNOWN if value is None else self.write(value)

    def key(self, row: object) -> str:
        """What the row is sorted by; empty where it is unknown."""
        value = (self.order or self.value)(row)
        unknown = value is None or (isinstance(value, float) and not math.isfinite(value))
        return "" if unknown else str(value)


def number(value: float | None) -> str:
    """Three digits of a measured number, all of a count."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return str(value) if isinstance(value, int) else f"{value:#.3g}"


def ssim(value: float | None) -> str:
    """Six digits of an SSIM, never rounded up."""
    return UNKNOWN if value is None or not math.isfinite(value) else cut_off(value)


def yes_or_no(value: bool) -> str:
    """A boolean in words."""
    return "yes" if value else "no"


def words(status: str) -> str:
    """A status with spaces for underscores; the reason after a colon is not changed."""
    word, colon, reason = status.partition(":")
    return word.replace("_", " ") + colon + reason
