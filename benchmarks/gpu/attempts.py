"""A measurement that may fail without the rest of its part."""

from collections.abc import Callable
from typing import Any

import torch

from percep.errors import one_line

Row = dict[str, Any]
OUT_OF_MEMORY = "out of memory"
"""The note of what does not fit on the device."""


def attempt(label: Row, measure: Callable[[], Row]) -> Row:
    """The label and what is measured; where that raises an error, the label and a note of it."""
    try:
        return label | measure()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return label | {"note": OUT_OF_MEMORY}
    except Exception as error:
        return label | {"note": described_error(error)}


def described_error(error: Exception) -> str:
    """Its type and what it says, shortened."""
    return f"{type(error).__name__}: {one_line(error)}"[:200]
