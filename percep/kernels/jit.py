"""How the CPU's kernels are compiled: on first use, into machine code that is kept on disk for the next process.

Numba keeps it until the file of the function changes, not of those that it calls: so none is called across files, and
after a change here `percep/kernels/__pycache__` must go.
"""

from collections.abc import Callable
from typing import Any

from numba import njit

# Fused multiplications and sums in any order; not that NaN could be left out of account.
_ANY_ORDER, _IN_ORDER = {"contract", "nsz", "reassoc"}, {"contract", "nsz"}


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel, or a large part of one."""
    return _compile(function, fastmath=_ANY_ORDER)


def inlined(function: Callable[..., Any]) -> Any:
    """A small part, put into what calls it: to pass arrays takes as long as some pixels."""
    return _compile(function, fastmath=_ANY_ORDER, inline="always")


def in_order(function: Callable[..., Any]) -> Any:
    """A function whose sums must be added as they are written."""
    return _compile(function, fastmath=_IN_ORDER)


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    options |= {"error_model": "numpy", "nogil": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it: a package that cannot be written to, and no home
        return njit(**options)(function)
