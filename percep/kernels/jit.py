"""How the CPU's kernels are compiled: on first use, into machine code that is kept on disk for the next process.

Numba keeps it until the file of the function changes, not of those that it calls: so none is called across files, and
after a change here or in `vectors` `percep/kernels/__pycache__` must go.
"""

from collections.abc import Callable
from typing import Any

from numba import njit

_EXACT = {"contract", "nsz"}  # multiplications may be fused with sums, which are added as they are written


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel, or a large part of one."""
    return _compile(function, fastmath=_EXACT)


def inlined(function: Callable[..., Any]) -> Any:
    """A part of a kernel, put into what calls it: to pass arrays takes as long as some pixels."""
    return _compile(function, fastmath=_EXACT, forceinline=True)


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    options |= {"error_model": "numpy", "nogil": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it: a package that cannot be written to, and no home
        return njit(**options)(function)
