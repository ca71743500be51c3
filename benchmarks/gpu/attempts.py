"""A measurement that may fail without the rest of its part."""

from collections.abc import Callable

import torch

from benchmarks.gpu.rows import Row
from percep.errors import one_line

OUT_OF_MEMORY = "out of memory"
"""The note of what does not fit on the device."""


def attempt(label: Row, measure: Callable[[], Row]) -> Row:
    """The label and what is measured; where that raises an error, the label and a note of it."""
    try:
        return label | measure()
    except Exception as error:
        return label | {"note": note_of(error)}


def note_of(error: Exception) -> str:
    """What stands in place of figures; memory that was asked for in vain is given back."""
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return OUT_OF_MEMORY
    return described_error(error)


def described_error(error: Exception) -> str:
    """Its type and what it says, shortened."""
    return f"{type(error).__name__}: {one_line(error)}"[:200]
