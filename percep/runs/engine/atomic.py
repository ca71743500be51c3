"""Files written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_MARK = ".percep-"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """The path of a temporary file beside `path`, to be written; at the end it is on the disk and has its name.

    Raises:
        OSError: the file cannot be written, or the disk is full; `path` is then as it was.
    """
    temporary = path.with_name(f"{_MARK}{uuid4().hex}{path.suffix}")
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)
        temporary.replace(path)
        if os.name != "nt":  # where a folder cannot be opened
            _flush(path.parent, os.O_RDONLY)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_remains(path: Path) -> bool:
    """Whether a file is a temporary one, left by a process that died, if none is writing."""
    return path.name.startswith(_MARK)


def remove_remains(folder: Path) -> None:
    """Removes the temporary files that are left in a folder."""
    for path in folder.glob(f"{_MARK}*"):
        path.unlink(missing_ok=True)


def _flush(path: Path, mode: int) -> None:
    """Has a file or folder on the disk; Windows does that only for what is open for writing."""
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
