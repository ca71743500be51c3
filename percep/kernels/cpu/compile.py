"""How the CPU's kernels are compiled: on first use, into machine code that is kept on disk for the next process.

Numba would keep it until the file of the function changes, whatever happens to the files of what it calls.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
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
        kernel = njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it: a package that cannot be written to, and no home
        return njit(**options)(function)
    with suppress(AttributeError):  # a Numba that keeps it elsewhere
        file = kernel._cache._cache_file
        file._source_stamp = _digest()
        file._data_name = partial(_data_name, file._index_name)
    return kernel


def _data_name(index: str, number: int) -> str:
    """Of a file with machine code. Numba would number them alone, and two processes at once take the same number."""
    return f"{index.removesuffix('.nbi')}.{os.getpid()}-{number}.nbc"


@cache
def _digest() -> str:
    """Of all that kernels are made of."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
