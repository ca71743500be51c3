"""How the CPU's kernels are compiled, and where they keep what lies between passes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

CACHE_LINE = 16
"""float32 in a cache line: to read a vector that lies in two takes twice as long."""
# Fused multiplications and sums in any order; not that NaN could be left out of account.
_FAST = {"contract", "nsz", "reassoc"}


def compiled(function: Callable[..., Any]) -> Any:
    """Machine code on first use, for each type; it is kept on disk for the next process."""
    return njit(fastmath=_FAST, error_model="numpy", nogil=True, cache=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """The same, put into what calls it: arrays are passed in pieces, which takes as long as some pixels."""
    return njit(fastmath=_FAST, error_model="numpy", nogil=True, cache=True, inline="always")(function)


@compiled
def zeros(count, like):
    """So many, from the beginning of a cache line on."""
    room = np.zeros(count + CACHE_LINE, like.dtype)
    return room[-(room.ctypes.data // room.itemsize) % CACHE_LINE :]
