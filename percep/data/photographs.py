"""Photographs: finding their files, labelling them, and reading them as tensors."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from percep.data.class_names import Classes
from percep.data.decoding import decode
from percep.data.files import SUFFIXES, Names, images, is_output, subfolders, without_suffix
from percep.data.labels import Given, Labels, Missing, NameLabels, many_missing
from percep.errors import InputError, UnavailableError, one_line
from percep.models import Preprocessing

MISSING_ROWS = 100
"""The largest number of labels without a photograph that have a row each; more of them share one row."""


@dataclass(frozen=True)
class Photograph:
    """One photograph, read and preprocessed, or the reason why it cannot be attacked.

    Attributes:
        name: unique in its sequence and safe as a file name on every system; without suffix.
        path: the file it comes from.
        image: `(C, H, W)` float32 in `[0, 1]`, multiples of 1/255; None where there is a problem.
        label: class index, or None when it is not known.
        target: class index of a targeted attack, or None if none was given with the photograph.
        problem: the status of a photograph that is not attacked, one line that begins with its kind: "unreadable:
            REASON"; "unlabelled: REASON" where labels were given, but none of the model's classes for this photograph;
            "missing: REASON" where there is a label without a photograph. None where it can be attacked.
        missing: the number of labels without a photograph that this entry represents; 0 for a photograph.
    """

    name: str
    path: Path
    image: Tensor | None
    label: int | None = None
    problem: str | None = None
    target: int | None = None
    missing: int = 0

    def __repr__(self) -> str:
        shape = "" if self.image is None else f", {'x'.join(map(str, self.image.shape))}"
        known = [
            f", {name}={value!r}"
            for name in ("label", "target", "problem")
            if (value := getattr(self, name)) is not None
        ]
        return f"Photograph({self.name!r}{shape}{''.join(known)})"


@dataclass(frozen=True)
class Entry:
    """A photograph that is not decoded yet.

    Attributes:
        name, path, label, target, missing: as of a `Photograph`.
        content: what its file holds, where that is inside an archive; None where `path` is to be read.
        problem: as of a `Photograph`, where it is known before it is decoded.
    """

    name: str
    path: Path
    label: int | None
    content: bytes | None = None
    problem: str | None = None
    target: int | None = None
    missing: int = 0

    def read(self, preprocessing: Preprocessing) -> Photograph:
        """The photograph, or the reason why it is not usable."""
        image, problem = None, self.problem
        if problem is None:
            mode = "L" if preprocessing.channels == 1 else "RGB"
            try:
                image = _to_tensor(preprocessing(decode(self.path if self.content is None else self.content, mode)))
            except InputError as error:
                problem = f"unreadable: {error}"
            except OSError as error:
                problem = f"unreadable: {error.strerror or one_line(error)}"
            except (MemoryError, OverflowError, ValueError) as error:  # of resizing it
                problem = f"unreadable: too large to be read: {one_line(error)}"
        return Photograph(self.name, self.path, image, self.label, problem, self.target, self.missing)


@dataclass(frozen=True)
class Inventory:
    """The number of photographs, and a digest of them, before they are read.

    Attributes:
        digest: of their names and labels, or of the names and sizes of archives.
        count: number of photographs; None where it is known only once they are read.
        entries: number of rows, those of labels without a photograph included; None where it is not known yet.
    """

    digest: str
    count: int | None
    entries: int | None = None


class Source(Protocol):
    """Photographs in shards: class folders, archives, or a single one. Iterating decodes them one by one."""

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def shards(self) -> tuple[str, ...]:
        """Names, in order."""

    def shard(self, number: int) -> Iterator[Entry]:
        """The photographs of a shard, in the same order every time.

        Raises:
            InputError: while iterating, a shard that cannot be read to its end.
        """

    def inventory(self) -> Inventory: ...

    def __iter__(self) -> Iterator[Photograph]: ...


def inventory_of(entries: Iterable[Entry]) -> Inventory:
    """The inventory of entries, by the names, labels and problems of all photographs."""
    digest, count, photographs = hashlib.blake2b(digest_size=16), 0, 0
    for count, entry in enumerate(entries, start=1):  # noqa: B007
        photographs += not entry.missing
        known = (entry.name, entry.label, entry.target, entry.problem)
        digest.update(repr(known).encode("utf-8", "surrogateescape") + b"\0")
    return Inventory(digest.hexdigest(), photographs, count)


@dataclass(frozen=True)
class Photographs:
    """A sequence of photographs, in a single shard; iterating reads them one by one, without storing them."""

    entries: tuple[Entry, ...]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Photographs({len(self)})"

    def __iter__(self) -> Iterator[Photograph]:
        return (entry.read(self.preprocessing) for entry in self.entries)

    @property
    def shards(self) -> tuple[str, ...]:
        return ("photographs",)

    def shard(self, number: int) -> Iterator[Entry]:
        assert number == 0
        return iter(self.entries)

    def inventory(self) -> Inventory:
        return inventory_of(self.entries)

    def first(self, count: int) -> "Photographs":
        """At most `count` photographs: the first of each label, as evenly over labels as possible; in the same order.

        Labels without a photograph are left out.
        """
        seen: Counter[int | None] = Counter()
        ranks = []
        for place, entry in enumerate(self.entries):
            if not entry.missing:
                ranks.append((seen[entry.label], place))
                seen[entry.label] += 1
        return replace(
            self, entries=tuple(self.entries[place] for place in sorted(p for _, p in sorted(ranks)[:count]))
        )


def samples(preprocessing: Preprocessing) -> Photographs:
    """The twenty labelled ImageNet photographs in the package foolbox.

    Raises:
        UnavailableError: foolbox is not installed.
    """
    package = find_spec("foolbox")  # importing it would take seconds
    if package is None or package.origin is None:
        raise UnavailableError("the sample photographs are part of the package foolbox: pip install 'percep[demo]'")
    root = Path(package.origin).parent / "data"
    files = sorted(root.glob("imagenet_*.jpg"))
    return _photographs(root, files, [Given(int(file.stem.split("_")[2])) for file in files], preprocessing)


def folder(
    path: str | Path,
    preprocessing: Preprocessing,
    class_index: Mapping[str, int],
    labels: Labels | NameLabels | None = None,
) -> Photographs:
    """The photographs of a folder, sorted by path: of one subfolder per class, or loose; or any, labelled by a file.

    A photograph is a file that ends in one of `SUFFIXES`. Hidden files and folders are left out, and so is the output
    of a run.

    Args:
        path: the folder. Its subfolders that hold images, at any depth, are classes, unless there are `labels`.
        preprocessing: how a photograph becomes a classifier's input.
        class_index: class index by name, such as `Classifier.class_index`. A subfolder has one of its names,
            as a label in a file may. Where none has, but there are as many as classes, they are the classes
            in sorted order, torchvision's `ImageFolder` convention.
        labels: what the photographs are labelled; then no folder is a class. A photograph that they do not label has a
            problem, "unlabelled: REASON". A label without a photograph is an entry at the end, "missing: REASON", or of
            more than `MISSING_ROWS` a single one that counts them.

    Raises:
        InputError: no such folder, no image in it, loose images beside class subfolders, a subfolder that is none of
            the classes, or labels whose indices can only be counted from another number.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the path of a folder of images")
    if is_output(root):
        raise InputError(f"{root} is the output of a run: give a folder of photographs, such as {root / 'adversarial'}")
    if labels is not None:
        files = images(root)
        if not files:
            raise _no_images(root)
        return _labelled(root, files, preprocessing, class_index, labels, all_known=True)
    loose = images(root, deep=False)
    classes = {subfolder.name: files for subfolder in subfolders(root) if (files := images(subfolder, root=root))}
    if loose and classes:
        raise InputError(f"{root} holds images beside the class folder {next(iter(classes))}: move one or the other")
    if loose:
        return _photographs(root, loose, [Given()] * len(loose), preprocessing)
    if not classes:
        raise _no_images(root)
    indices = class_indices(list(classes), class_index)
    given = [Given(indices[name]) for name, files in classes.items() for _ in files]
    return _photographs(root, [file for files in classes.values() for file in files], given, preprocessing)


def image(
    path: str | Path,
    preprocessing: Preprocessing,
    class_index: Mapping[str, int] | None = None,
    labels: Labels | NameLabels | None = None,
) -> Photographs:
    """One photograph, without a label or with that which labels give it.

    Raises:
        InputError: the file does not exist or is not a usable image; it is read to find out.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file} is not a file: give the path of an image")
    try:
        decode(file)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    if labels is not None:
        return _labelled(file.parent, [file], preprocessing, class_index or {}, labels, all_known=False)
    return _photographs(file.parent, [file], [Given()], preprocessing)


def _no_images(root: Path) -> InputError:
    return InputError(f"{root} holds no images, that is no files ending in {', '.join(SUFFIXES)}")


def _labelled(
    root: Path,
    files: Sequence[Path],
    preprocessing: Preprocessing,
    class_index: Mapping[str, int],
    labels: Labels | NameLabels,
    *,
    all_known: bool,
) -> Photographs:
    paths, labelling, names = [file.relative_to(root).as_posix() for file in files], labels.of(class_index), Names()
    found = _photographs(root, files, labelling.give(paths), preprocessing, names)
    missing = missing_entries(labelling.missing(paths), root, names) if all_known else ()
    return replace(found, entries=found.entries + tuple(missing))


def missing_entries(missing: Sequence[Missing], root: Path, names: Names) -> Iterator[Entry]:
    """An entry for each label without a photograph, or one that counts them where they are many."""
    if len(missing) > MISSING_ROWS:
        yield Entry(
            names("labels without a photograph"), root, None, problem=many_missing(missing), missing=len(missing)
        )
        return
    for one in missing:
        problem = f"missing: a label in line {one.line} without a photograph in {root}"
        name = names(without_suffix(one.name) or f"line {one.line}")
        yield Entry(name, root / one.name, one.label, problem=problem, missing=1)


def _photographs(
    root: Path,
    files: Iterable[Path],
    given: Iterable[Given],
    preprocessing: Preprocessing,
    names: Names | None = None,
) -> Photographs:
    names = Names() if names is None else names
    entries = []
    for file, one in zip(files, given, strict=True):
        name = names(without_suffix(file.relative_to(root).as_posix()))
        entries.append(Entry(name, file, one.label, problem=one.problem, target=one.target))
    return Photographs(tuple(entries), preprocessing)


def class_indices(names: Sequence[str], class_index: Mapping[str, int]) -> dict[str, int]:
    """Class indices of folders by their names, as `folder` finds them and as label files may call them.

    Raises:
        InputError: a name that is none of the classes.
    """
    classes = Classes(class_index)
    found = {name: classes.find(name) for name in names}
    unknown = [name for name, index in found.items() if index is None]
    if not unknown:
        return {name: index for name, index in found.items() if index is not None}
    if len(unknown) == len(names) == classes.count:
        return dict(zip(sorted(names), sorted(set(class_index.values())), strict=True))
    listed = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
    raise InputError(
        f"labels outside the model's classes: {listed}; "
        f"name the folders after its {classes.count} classes, by index from 0, name or WordNet id"
    )


def _to_tensor(picture: Image.Image) -> Tensor:
    levels = np.array(picture)
    return torch.from_numpy(levels.reshape(*levels.shape[:2], -1)).permute(2, 0, 1).contiguous().float() / 255
