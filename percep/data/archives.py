"""Tar archives: the images in them, and the labels beside these, in the layout of the webdataset library."""

import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from percep.data.files import is_hidden, is_image_name, without_suffix
from percep.errors import InputError, one_line

LABEL = ".cls"

# An archive ends in blocks of zeros; what follows the first is read in pieces of the second size.
_BLOCK, _AT_ONCE = 512, 2**20
_METADATA = re.compile(r"__[^/]*__(/|$)")


@dataclass(frozen=True)
class Member:
    """An image or a label in an archive.

    Attributes:
        path: in the archive, without what leads out of it.
        key: the path without ending.
        read: gives its content.
        problem: why it cannot be read.
    """

    path: str
    key: str
    read: Callable[[], bytes]
    problem: str | None = None

    @property
    def is_label(self) -> bool:
        return self.path != self.key and self.path[len(self.key) :].lower() == LABEL


@dataclass(frozen=True)
class Sample:
    """An image with its label, or what is wrong with them.

    Attributes:
        path: of the image, or of the label where there is none.
        key: the path without ending.
        image: None where there is none to be read.
        labels: those that are its own: none, or one, unless the archive has several.
        problem: as of a `percep.data.Photograph`.
    """

    path: str
    key: str
    image: Member | None
    labels: tuple[Member, ...] = ()
    problem: str | None = None

    @property
    def is_label(self) -> bool:
        """Whether it is a label without an image."""
        return bool(self.labels) and self.labels[0].path == self.path


class LocalArchive:
    """An archive on the disk, of which the names are known before anything is read.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        members: list[Member] = []
        self.problem: str | None = None
        try:
            for member in self._members():
                members.append(member)  # those before a damage are kept
        except InputError as error:
            self.problem = str(error)
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            reason = one_line(error)
            self.problem = reason if members else f"{reason}: it is cut off, or compressed"
        self.samples = samples_of(members)

    def __iter__(self) -> Iterator[Sample]:
        """All samples.

        Raises:
            InputError: at the end, of an archive that is damaged or cut off.
        """
        yield from self.samples
        if self.problem is not None:
            raise InputError(self.problem)

    def _members(self) -> Iterator[Member]:
        size = self.path.stat().st_size
        with self.path.open("rb") as file, _opened(file, "r:") as archive:
            for info in _infos(archive):
                path = _counted(info)
                if path is None or info.offset_data + info.size > size:
                    continue
                read = partial(_read, self.path, info.offset_data, info.size)
                yield Member(path, _key(path), read, _problem(info, sparse="a sparse file"))
            file.seek(archive.offset)
            _check_end(file)


def read_stream(stream: BinaryIO) -> Iterator[Sample]:
    """The samples of an archive that can be read once, from its beginning to its end.

    Raises:
        InputError: while iterating, an archive that is damaged or cut off, or a label that comes too late.
    """
    checked = _CheckedStream(stream)
    with closing(stream):
        yield from _in_order(_streamed(checked))
        checked.finish()


def samples_of(members: Sequence[Member]) -> list[Sample]:
    """Images with their labels, wherever these are in the archive.

    The label of `a.b.jpg` is `a.b.cls`, or `a.cls` where that is no other's.
    """
    images: dict[str, list[Member]] = {}
    labels: dict[str, list[Member]] = {}
    order: dict[str, None] = {}
    for member in members:
        (labels if member.is_label else images).setdefault(member.key, []).append(member)
        order[member.key] = None
    owners = {key: next((above for above in _aboves(key) if above in labels), None) for key in images}
    owned: dict[str, list[str]] = {}
    for key, owner in owners.items():
        if owner is not None:
            owned.setdefault(owner, []).append(key)
    found = []
    for key in order:
        if key in images:
            owner = owners[key]
            sharing = [] if owner is None or owner == key else [one for one in owned[owner] if one != key]
            found.append(_sample(images[key], labels.get(owner or "", []), sharing))
        elif key not in owned:
            first, *_ = own = labels[key]
            found.append(Sample(first.path, key, None, tuple(own), "missing: a label without an image"))
    return found


def _sample(images: Sequence[Member], labels: Sequence[Member], sharing: Sequence[str]) -> Sample:
    first, problem = images[0], None
    if len(images) > 1:
        problem = f"unreadable: {len(images)} images of this name in the archive"
    elif first.problem is not None:
        problem = f"unreadable: {first.problem}"
    elif sharing:
        problem = f"unlabelled: {labels[0].path} is also the label of {sharing[0]}"
    return Sample(first.path, first.key, None if problem else first, tuple(labels), problem)


def _in_order(members: Iterable[Member]) -> Iterator[Sample]:
    """Samples of members that follow each other; labels may also come long before.

    Raises:
        InputError: while iterating, a member that changes what a sample before it was.
    """
    order = _Order()
    for member in members:
        if order.held and not any(_related(member.key, other.key) for other in order.held):
            yield from order.finished()
        order.add(member)
    yield from order.finished()
    yield from samples_of([label for labels in order.early.values() for label in labels])


class _Order:
    """The state of reading members once, in their order.

    Attributes:
        held: consecutive members that may belong together.
        early: labels without an image so far, by key.
        closed: keys of which no label may follow, and of which no image may, with the path of the sample before.
    """

    def __init__(self) -> None:
        self.held: list[Member] = []
        self.early: dict[str, list[Member]] = {}
        self.closed: dict[tuple[str, bool], str] = {}

    def add(self, member: Member) -> None:
        before = self.closed.get((member.key, member.is_label))
        if before is not None:
            raise InputError(
                f"{member.path} comes after {before}, and not at once: sort the archive by names, as tar --sort=name "
                "does, or read it from a disk"
            )
        self.held.append(member)

    def finished(self) -> Iterator[Sample]:
        held, self.held = self.held, []
        own = {member.key for member in held if member.is_label}
        for key in {member.key for member in held if not member.is_label}:
            label = next((above for above in _aboves(key) if above in own or above in self.early), None)
            if label is not None and label not in own:
                held += self.early.pop(label)
                own.add(label)
        for sample in samples_of(held):
            if sample.is_label:
                self.early.setdefault(sample.key, []).extend(sample.labels)
            else:
                self._close(sample)
                yield sample

    def _close(self, sample: Sample) -> None:
        labels = {label.key for label in sample.labels}
        self.closed[sample.key, False] = sample.path
        for above in _aboves(sample.key):
            if above in labels:
                self.closed[above, False] = self.closed[above, True] = sample.path
                return
            self.closed[above, True] = sample.path


def _streamed(stream: "_CheckedStream") -> Iterator[Member]:
    with _opened(stream, "r|*") as archive:
        for info in _infos(archive):
            path = _counted(info)
            if path is None:
                continue
            problem = _problem(info)
            file = archive.extractfile(info) if problem is None else None
            content = b"" if file is None else file.read()
            if file is not None and len(content) < info.size:
                raise InputError(f"it ends in {path}")
            yield Member(path, _key(path), partial(bytes, content), problem)


def _opened(file: "IO[bytes] | _CheckedStream", mode: str) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode=mode)  # type: ignore[call-overload]


def _infos(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # which it would keep for all
        if info.size < 0:
            raise InputError(f"{info.name} has a negative size")
        yield info


def _counted(info: tarfile.TarInfo) -> str | None:
    """The path of a member that is an image or a label, without what leads out of the archive; None of any other."""
    if info.isdir() or _METADATA.match(info.name):
        return None
    parts = [part for part in info.name.split("/") if part not in ("", ".", "..")]
    if not parts or any(map(is_hidden, parts)):
        return None
    named = is_image_name(parts[-1]) or (parts[-1].lower().endswith(LABEL) and parts[-1].lower() != LABEL)
    return "/".join(parts) if named else None


def _problem(info: tarfile.TarInfo, sparse: str | None = None) -> str | None:
    if info.islnk() or info.issym():
        return f"a link to {info.linkname}: make the archive with tar --dereference --hard-dereference"
    if not info.isreg():
        return "not a file that can be read"
    return sparse if info.issparse() else None


def _key(path: str) -> str:
    return path[: -len(LABEL)] if path.lower().endswith(LABEL) else without_suffix(path)


def _aboves(key: str) -> Iterator[str]:
    """A key, and what it is without its last dotted parts: a.b.c, a.b, a."""
    folder, slash, name = key.rpartition("/")
    parts = name.split(".")
    return (folder + slash + ".".join(parts[:count]) for count in range(len(parts), 0, -1))


def _related(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise InputError("the archive has changed while it was read")
    return content


def _check_end(file: IO[bytes]) -> None:
    """Checks what follows the last member."""
    first = file.read(_BLOCK)
    if first != bytes(_BLOCK):
        raise InputError("the mark at the end of a tar archive is missing: it is cut off, or compressed, or damaged")
    while content := file.read(_AT_ONCE):
        if content.strip(b"\0"):
            raise InputError("something follows its end: several archives in one file, perhaps")


class _CheckedStream:
    """A stream of a tar archive that checks for the end mark, without which Python's tarfile ends silently."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.tail = b""

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.tail = (self.tail + content)[-_BLOCK:]
        return content

    def finish(self) -> None:
        while self.read(_AT_ONCE):
            pass
        if self.tail != bytes(_BLOCK):
            raise InputError("the mark at the end of a tar archive is missing: it is cut off, or compressed")
