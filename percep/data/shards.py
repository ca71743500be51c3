"""Photographs of data sets that are read shard by shard: a class folder or a tar archive at a time."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Self
from urllib.parse import urlparse

from percep.data.archives import LocalArchive, Sample, read_stream
from percep.data.class_names import Classes
from percep.data.files import Names, images, is_hidden, is_output, subfolders, without_suffix
from percep.data.labels import Given, Labelling, Labels, Missing, NameLabels
from percep.data.photographs import Entry, Inventory, Photograph, class_indices, inventory_of, missing_entries
from percep.errors import InputError, one_line
from percep.models import Preprocessing


def share(most: int, shards: int, shard: int) -> int:
    """How many of `most` photographs a shard contributes when they are distributed evenly over `shards`."""
    return most // shards + (shard < most % shards)


def shares(most: int, sizes: Iterable[int]) -> list[int]:
    """How many of `most` photographs shards of given sizes contribute, as evenly as possible."""
    known: list[int] = []
    for size in sizes:
        if sum(1 for one in known if one) == most:
            break
        known.append(size)
    given = [0] * len(known)
    remaining = most
    while able := [shard for shard, size in enumerate(known) if given[shard] < size][:remaining]:
        each = min(max(1, remaining // len(able)), *(known[shard] - given[shard] for shard in able))
        for shard in able:
            given[shard] += each
        remaining -= each * len(able)
    return given


class Shards(ABC):
    """A `Source` that reads one shard at a time. A photograph is named SHARD/NAME."""

    def __init__(self, names: Iterable[str], preprocessing: Preprocessing) -> None:
        self.names = tuple(map(Names(), names))
        self.preprocessing = preprocessing
        self.limits: dict[int, int] | None = None

    @property
    def shards(self) -> tuple[str, ...]:
        return self.names if self.limits is None else tuple(self.names[place] for place in self.limits)

    def shard(self, number: int) -> Iterator[Entry]:
        if self.limits is None:
            return self._entries(number)
        place, limit = list(self.limits.items())[number]
        return islice((entry for entry in self._entries(place) if not entry.missing), limit)

    def __iter__(self) -> Iterator[Photograph]:
        for number in range(len(self.shards)):
            for entry in self.shard(number):
                yield entry.read(self.preprocessing)

    def first(self, count: int) -> Self:
        """At most `count` photographs: the first of each shard, as evenly over shards as possible.

        Shards that give none are left out, and so are labels without a photograph, which take no place.
        """
        limited = copy(self)
        shares = enumerate(self._shares(count))
        limited.limits = {place: share for place, share in shares if share} or {0: count}
        return limited

    @abstractmethod
    def inventory(self) -> Inventory: ...

    @abstractmethod
    def _entries(self, place: int) -> Iterator[Entry]:
        """The photographs of a shard, by its place among all."""

    @abstractmethod
    def _shares(self, count: int) -> list[int]:
        """How many of `count` photographs each shard contributes."""


class ClassFolders(Shards):
    """A folder with a sub-folder per class, as `torchvision.datasets.ImageFolder` reads it; a shard is a class.

    Unlike there, labels are the model's: a sub-folder is named by a class's WordNet id, name or index, so that some of
    ImageNet's folders are labelled as all of them are. Hidden files and folders are left out, and so is the output of a
    run; a folder without images is a class only where its name is that of one.

    Args:
        path: the folder.
        preprocessing: how a photograph becomes a classifier's input.
        class_index: class index by name, such as `Classifier.class_index`. Where it has none of the sub-folders, but as
            many classes, they are the classes in sorted order.

    Raises:
        InputError: no such folder, no sub-folder in it, or one with images that is none of the classes.
    """

    def __init__(self, path: str | Path, preprocessing: Preprocessing, class_index: Mapping[str, int]) -> None:
        self.root = Path(path)
        if not self.root.is_dir():
            raise InputError(f"{self.root} is not a folder: give the path of a folder of class folders")
        if is_output(self.root):
            raise InputError(f"{self.root} is the output of a run: give a folder of class folders")
        folders = [folder.name for folder in subfolders(self.root)]
        try:
            indices = class_indices(folders, class_index)
        except InputError:
            classes = Classes(class_index)
            folders = [name for name in folders if classes.find(name) is not None or self._images(name)]
            indices = class_indices(folders, class_index) if folders else {}
        if not folders:
            raise InputError(f"{self.root} holds no class folders: use data=folder for loose images")
        super().__init__(folders, preprocessing)
        self.classes = list(indices.items())

    def inventory(self) -> Inventory:
        return inventory_of(entry for number in range(len(self.shards)) for entry in self.shard(number))

    def _entries(self, place: int) -> Iterator[Entry]:
        folder, label = self.classes[place]
        names = Names()
        for path in self._images(folder):
            stem = without_suffix(path.relative_to(self.root / folder).as_posix())
            yield Entry(f"{self.names[place]}/{names(stem)}", path, label)

    def _images(self, folder: str) -> list[Path]:
        return images(self.root / folder, root=self.root)

    def _shares(self, count: int) -> list[int]:
        return shares(count, (len(self._images(folder)) for folder, _ in self.classes))


class Archives(Shards):
    """Tar archives in the layout of the webdataset library, which opens them; a shard is an archive.

    An image is `KEY.jpg` or another of `percep.data.files.SUFFIXES`, its label `KEY.cls`: a class's index, WordNet id
    or name as text. An image without `KEY.cls` has no label. Other members, hidden ones and those of macOS are left
    out.

    The names in an archive on a disk are read first, so that their order does not matter; of one that is read from a
    URL, an image's label has to come before it or next to it.

    Args:
        path: a folder of `.tar` files, or paths or URLs with brace patterns, such as `val-{000000..000049}.tar`.
        preprocessing: how a photograph becomes a classifier's input.
        class_index: class index by name, such as `Classifier.class_index`.
        labels: what the images are labelled instead of by `KEY.cls`, by their paths in the archives, which may follow
            the archive's name: `val-000000/KEY.jpg`. Labels without a photograph have problems, "missing: REASON", in a
            shard of their own. Of archives that are not on a disk, no label is known to be without a photograph, and
            one counts where it names the archive, or is the only one of its path or file name.

    Raises:
        InputError: a path that is not a file, a folder without `.tar` files, or labels whose indices can only be
            counted from another number.
    """

    def __init__(
        self,
        path: str,
        preprocessing: Preprocessing,
        class_index: Mapping[str, int],
        labels: Labels | NameLabels | None = None,
    ) -> None:
        self.urls = _urls(path)
        self.stems = [Path(url if _is_local(url) else urlparse(url).path).stem for url in self.urls]
        self.are_local = all(map(_is_local, self.urls))
        self.classes = Classes(class_index)
        self.labels = labels
        self.labelling = None if labels is None else labels.of(class_index, self.stems)
        tells_missing = self.labelling is not None and self.are_local
        super().__init__([*self.stems, *(["labels without a photograph"] if tells_missing else [])], preprocessing)
        self.given: list[dict[str, Given]] = []
        self.missing: tuple[Missing, ...] = ()
        if self.labelling is not None and self.are_local:  # once, before processes that read ahead are started
            self._give(self.labelling)

    def _give(self, labelling: Labelling) -> None:
        """Labels the images of all archives together, as a label may be of any of them."""
        places = [
            (place, sample.path, sample.is_label) for place in range(len(self.urls)) for sample in self._names(place)
        ]
        paths = [self._path(place, path) for place, path, _ in places]
        self.given = [{} for _ in self.urls]
        for (place, path, _), given in zip(places, labelling.give(paths), strict=True):
            self.given[place][path] = given
        self.missing = labelling.missing(
            [path for path, (*_, is_label) in zip(paths, places, strict=True) if not is_label]
        )

    def _names(self, place: int) -> list[Sample]:
        """The samples of an archive; none if it cannot be read, which is reported when it is iterated."""
        try:
            return LocalArchive(self.urls[place]).samples
        except OSError:
            return []

    def inventory(self) -> Inventory:
        digest = hashlib.blake2b(digest_size=16)
        places = range(len(self.urls)) if self.limits is None else self.limits
        for url in (self.urls[place] for place in places if place < len(self.urls)):
            size = Path(url).stat().st_size if _is_local(url) else None
            digest.update(f"{url} {size}\n".encode("utf-8", "surrogateescape"))
        if self.labels is not None:
            digest.update(self.labels.digest.encode())
        return Inventory(digest.hexdigest(), None)

    def _entries(self, place: int) -> Iterator[Entry]:
        if place == len(self.urls):
            yield from self._missing()
            return
        url, names = self.urls[place], Names()
        try:
            for sample, given in self._samples(place):
                yield self._entry(sample, given, f"{self.names[place]}/{names(sample.key)}", url)
        except Exception as error:  # a damaged archive or a broken connection may raise anything
            reason = one_line(error).partition(" @ ")[0]  # then comes the stream
            raise InputError(f"{url} cannot be read to its end: {reason}") from error

    def _samples(self, place: int) -> Iterator[tuple[Sample, Given | None]]:
        """Samples, and what the labels beside the archives say of them."""
        url = self.urls[place]
        if not _is_local(url):
            from webdataset.gopen import gopen  # noqa: PLC0415  takes a second

            for sample in read_stream(gopen(url)):
                alone = None if self.labelling is None else self.labelling.give_alone(self._path(place, sample.path))
                yield sample, alone
            return
        for sample in LocalArchive(url):
            if self.given and sample.path not in self.given[place]:
                raise InputError("the archive has changed since its names were read")
            yield sample, self.given[place][sample.path] if self.given else None

    def _path(self, place: int, path: str) -> str:
        return f"{self.stems[place]}/{path}"

    def _entry(self, sample: Sample, given: Given | None, name: str, url: str) -> Entry:
        path, problem, content = Path(url) / sample.path, sample.problem, None
        if given is None:
            given = self._given(sample)
        elif problem is not None and problem.startswith(("unlabelled", "missing")) and sample.image is not None:
            problem = None
        problem = problem or given.problem
        if problem is None and sample.image is not None:
            try:
                content = sample.image.read()
            except MemoryError:
                problem = "unreadable: too large to be read"
        return Entry(name, path, given.label, content, problem, given.target, missing=int(sample.is_label))

    def _given(self, sample: Sample) -> Given:
        """What the labels of a sample in the archive say."""
        if not sample.labels:
            return Given()
        linked = next((label.problem for label in sample.labels if label.problem is not None), None)
        if linked is not None:
            return Given(problem=f"unlabelled: its label is {linked}")
        texts = {label.read().decode("utf-8-sig", "replace").strip() for label in sample.labels}
        if len(texts) > 1:
            return Given(problem=f"unlabelled: {len(texts)} labels of this name in the archive")
        (text,) = texts
        label = self.classes.find(text)
        if label is None:
            return Given(problem=f"unlabelled: label {text[:40]!r} is none of {self.classes.described}")
        return Given(label)

    def _missing(self) -> Iterator[Entry]:
        for entry in missing_entries(self.missing, Path(self.urls[0]).parent, Names()):
            yield replace(entry, name=f"{self.names[-1]}/{entry.name}")

    def _shares(self, count: int) -> list[int]:
        if not self.are_local:
            return [share(count, len(self.urls), place) for place in range(len(self.urls))]
        return shares(count, (self._photographs(place) for place in range(len(self.urls))))

    def _photographs(self, place: int) -> int:
        return sum(not sample.is_label for sample in self._names(place))


def _urls(path: str) -> list[str]:
    if Path(path).is_dir():
        files = [file for file in sorted(Path(path).iterdir()) if file.suffix.lower() == ".tar" and file.is_file()]
        urls = [str(file) for file in files if not is_hidden(file.name)]
        if not urls:
            raise InputError(f"{path} holds no .tar files")
        return urls
    if Path(path).is_file():
        return [path]
    from webdataset.shardlists import expand_urls  # noqa: PLC0415

    urls = expand_urls(path)
    for url in urls:
        if _is_local(url) and not Path(url).is_file():
            raise InputError(f"{url} is not a file: give a folder of .tar files, a path or a URL, or a brace pattern")
    return urls


def _is_local(url: str) -> bool:
    return Path(url).is_file() or not urlparse(url).scheme
