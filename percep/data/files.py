"""Which files are photographs, and their names: the same for every source."""

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_LONGEST_NAME = 60
# Of the settings that every task writes into its output folder.
_RUN_KEYS = {b"task", b"model", b"data", b"device", b"seed", b"output"}
# Of the manifest that `percep.runs.engine.manifest` writes there; an earlier version called the last one "basis".
_MANIFEST_KEYS = ({"settings", "shards", "provenance"}, {"settings", "shards", "basis"})


def folded(name: str) -> str:
    """The key under which names are equal that differ in case, or in how letters with accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or made by an operating system."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def without_suffix(name: str) -> str:
    """A file's name or path without the ending of an image; other dots are part of it."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in SUFFIXES else name


def is_image_name(name: str) -> bool:
    """Whether a file of this name should be an image."""
    return not is_hidden(name) and name.rpartition(".")[0] != "" and without_suffix(name) != name


def is_output(folder: Path) -> bool:
    """Whether a folder is the output of one of percep's runs."""
    if _is_manifest(folder / "run.json"):
        return True
    settings = folder / "config.yaml"
    if not settings.is_file():
        return False
    return set(re.findall(rb"^(\w+):", settings.read_bytes(), re.MULTILINE)) >= _RUN_KEYS


def _is_manifest(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    if not isinstance(manifest, dict) or not any(manifest.keys() >= keys for keys in _MANIFEST_KEYS):
        return False
    return isinstance(manifest["settings"], dict) and "task" in manifest["settings"]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without those that are hidden or a run's output."""
    return [path for path in sorted(folder.iterdir()) if _is_folder(path) and not _is_left_out(path)]


def images(folder: Path, *, deep: bool = True, root: Path | None = None) -> list[Path]:
    """The images of a folder: files that end in `SUFFIXES`, broken links included, so that they are reported.

    Hidden files and the outputs of runs are left out; links to folders are followed unless they form a cycle.

    Args:
        folder: to be looked through.
        deep: whether folders in it count, at any depth.
        root: a folder above it, for cycles of links that lead there.

    Returns:
        Paths, sorted by folder and name. A folder that cannot be listed is among them itself.
    """
    found = list(_images(folder, deep, () if root is None else (_place(root),)))
    return sorted(found, key=lambda path: (str(path.parent), path.name))


def _images(folder: Path, deep: bool, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    try:
        place = _place(folder)
        paths = sorted(folder.iterdir())
    except OSError:
        yield folder
        return
    if place in above:
        return
    for path in paths:
        if _is_folder(path):
            if deep and not _is_left_out(path):
                yield from _images(path, deep, (*above, place))
        elif is_image_name(path.name):
            yield path


def _place(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # False where Path.is_dir raises: a name too long, a link to itself


def _is_left_out(folder: Path) -> bool:
    try:
        return is_hidden(folder.name) or is_output(folder)
    except OSError:  # it cannot be read, which is reported elsewhere
        return False


class Names:
    """Gives names that are unique and safe as file names on every system."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._copies: dict[str, int] = {}

    def __call__(self, stem: str) -> str:
        """A file name made of `stem`, unlike all before, whatever a file system makes of case and composed letters."""
        safe = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", stem))[:_LONGEST_NAME].strip(".") or "_"
        if _WINDOWS_DEVICES.match(safe):
            safe = f"_{safe}"
        name, key = safe, folded(safe)
        while folded(name) in self._taken:
            self._copies[key] = self._copies.get(key, 1) + 1
            name = f"{safe}-{self._copies[key]}"
        self._taken.add(folded(name))
        return name
