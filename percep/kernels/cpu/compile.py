"""How the CPU's kernels are compiled: on first use, into machine code that is kept on disk for the next process.

Numba would keep it until the file of the function changes, whatever happens to the files of what it calls.
"""

import hashlib
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from numba import njit

_EXACT = {"contract", "nsz"}  # multiplications may be fused with sums, which are added as they are written


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel, or a large part of one."""
    return _compile(function, fastmath=_EXACT)


def inlined(function: Callable[..., Any]) -> Any:
    """A part of a kernel, inlined: a call that passes arrays takes as long as some pixels."""
    return _compile(function, fastmath=_EXACT, forceinline=True)


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    """Keeps nothing where it cannot: in a package that cannot be written to without a home, or by another Numba."""
    options |= {"error_model": "numpy", "nogil": True}
    try:
        kernel = njit(cache=True, **options)(function)
        _keep_by_content(kernel._cache._cache_file)
    except (RuntimeError, AttributeError):
        return njit(**options)(function)
    return kernel


def _keep_by_content(file: Any) -> None:
    """Has Numba's file of machine code renewed whenever a file of the kernels changes; raises `AttributeError` if
    Numba does not keep what is overridden here.
    """
    for overridden in ("_source_stamp", "_data_name"):
        getattr(file, overridden)
    file._source_stamp = _digest()
    file._data_name = partial(_data_name, file._index_name)


def _data_name(index: str, number: int) -> str:
    """The name of a file with machine code. Numba's is its number, which two processes at once may both take."""
    return f"{index.removesuffix('.nbi')}.{os.getpid()}-{number}.nbc"


@cache
def _digest() -> str:
    """Of all files that kernels are made of."""
    folder = Path(__file__).parent
    files = [*sorted(folder.glob("*.py")), folder.parent / "arguments.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
