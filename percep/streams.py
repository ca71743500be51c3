"""Photographs of data sets that are read shard by shard: a class folder or a tar archive at a time."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import urlparse

from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import find_classes

from percep.data import SUFFIXES, Entry, Photograph, Survey, class_indices, is_image, survey_of, unique_name
from percep.errors import InputError
from percep.models import Preprocessing

# A tar archive ends in blocks of zeros; what follows them is read in pieces of this size.
_BLOCK, _AT_ONCE = 512, 2**20


def share(most: int, shards: int, shard: int) -> int:
    """How many of `most` photographs a shard gives when they are spread evenly over `shards`."""
    return most // shards + (shard < most % shards)


class Shards(ABC):
    """A `Source` of which one shard at most is known at a time. A photograph is named SHARD/NAME."""

    def __init__(self, shards: Iterable[str], preprocessing: Preprocessing) -> None:
        taken: set[str] = set()
        self.shards = tuple(unique_name(name.lstrip("."), taken) for name in shards)
        self.preprocessing = preprocessing
        self.limit: int | None = None

    def shard(self, number: int) -> Iterator[Entry]:
        entries = self._entries(number)
        return entries if self.limit is None else islice(entries, share(self.limit, len(self.shards), number))

    def __iter__(self) -> Iterator[Photograph]:
        for number in range(len(self.shards)):
            for entry in self.shard(number):
                yield entry.read(self.preprocessing)

    def first(self, count: int) -> Self:
        """At most `count` photographs, the first of every shard."""
        limited = copy(self)
        limited.limit, limited.shards = count, self.shards[:count]
        return limited

    @abstractmethod
    def survey(self) -> Survey: ...

    @abstractmethod
    def _entries(self, number: int) -> Iterator[Entry]: ...


class ClassFolders(Shards):
    """A folder with a sub-folder per class, as `torchvision.datasets.ImageFolder` reads it; a shard is a class.

    Unlike there, labels are the model's: a sub-folder is named by a class's WordNet id, name or index, so that some of
    ImageNet's folders are labelled as all of them are.

    Args:
        path: the folder.
        preprocessing: how a photograph becomes a classifier's input.
        class_index: class index by name, such as `Classifier.class_index`. Where it has none of the sub-folders, but as
            many classes, they are the classes in sorted order.

    Raises:
        InputError: no such folder, no sub-folder in it, or one that is none of the classes.
    """

    def __init__(self, path: str | Path, preprocessing: Preprocessing, class_index: Mapping[str, int]) -> None:
        self.root = Path(path)
        if not self.root.is_dir():
            raise InputError(f"{self.root} is not a folder: give the path of a folder of class folders")
        try:
            names, _ = find_classes(self.root)
        except FileNotFoundError as error:
            raise InputError(f"{self.root} holds no class folders: use data=folder for loose images") from error
        super().__init__(names, preprocessing)
        self.classes = list(class_indices(names, class_index).items())

    def survey(self) -> Survey:
        return survey_of(entry.name for number in range(len(self.shards)) for entry in self.shard(number))

    def _entries(self, number: int) -> Iterator[Entry]:
        folder, label = self.classes[number]
        found = ImageFolder.make_dataset(
            self.root, {folder: label}, is_valid_file=lambda file: is_image(Path(file)), allow_empty=True
        )
        taken: set[str] = set()
        for file, _ in found:
            path = Path(file)
            stem = path.relative_to(self.root / folder).with_suffix("").as_posix()
            yield Entry(f"{self.shards[number]}/{unique_name(stem, taken)}", path, label)


class Archives(Shards):
    """Tar archives in the layout of the webdataset library, which reads them; a shard is an archive.

    An image is `KEY.jpg` or another of `percep.data.SUFFIXES`, its label `KEY.cls`: a class's index, WordNet id or name
    as text. An image without `KEY.cls` has no label.

    Args:
        path: a folder of `.tar` files, or paths or URLs with brace patterns, such as `val-{000000..000049}.tar`.
        preprocessing: how a photograph becomes a classifier's input.
        class_index: class index by name, such as `Classifier.class_index`.

    Raises:
        InputError: a path that is not a file, or a folder without `.tar` files.
    """

    def __init__(self, path: str, preprocessing: Preprocessing, class_index: Mapping[str, int]) -> None:
        self.urls = _urls(path)
        super().__init__((Path(urlparse(url).path).stem for url in self.urls), preprocessing)
        self.class_index = {name.replace("_", " "): index for name, index in class_index.items()}

    def survey(self) -> Survey:
        digest = hashlib.blake2b(digest_size=16)
        for url in self.urls[: len(self.shards)]:
            size = Path(url).stat().st_size if _is_local(url) else None
            digest.update(f"{url} {size}\n".encode("utf-8", "surrogateescape"))
        return Survey(digest.hexdigest(), None)

    def _entries(self, number: int) -> Iterator[Entry]:
        url = self.urls[number]
        taken: set[str] = set()
        try:
            for sample in _samples(url):
                yield self._entry(sample, f"{self.shards[number]}/{unique_name(str(sample['__key__']), taken)}", url)
        except Exception as error:  # whatever a damaged archive or a broken connection makes of the library
            words = str(error.args[0] if error.args else error).partition(" @ ")[0]  # then comes the stream
            reason = " ".join(words.split()) or type(error).__name__
            raise InputError(f"{url} cannot be read to its end: {reason}") from error

    def _entry(self, sample: Mapping[str, bytes], name: str, url: str) -> Entry:
        images = [key for key in sample if f".{key.rpartition('.')[2]}" in SUFFIXES]
        path = Path(url) / str(sample["__key__"])
        label = problem = content = None
        if len(images) == 1:
            content = sample[images[0]]
        else:
            problem = f"unreadable: {len(images) or 'no'} images of this name in the archive"
        if "cls" in sample:
            text = sample["cls"].decode("utf-8", "replace").strip()
            label = self.class_index.get(text.replace("_", " "))
            if label is None:
                reason = f"label {text[:40]!r} is none of the model's classes, by index from 0, name or WordNet id"
                problem = f"unlabelled: {reason}"
        return Entry(name, path, label, content, problem)


def _samples(url: str) -> Iterator[Mapping[str, bytes]]:
    from webdataset.tariterators import group_by_keys, tar_file_expander, url_opener  # noqa: PLC0415  takes a second

    for source in url_opener([{"url": url}]):
        stream = _ToTheEnd(source["stream"])
        yield from group_by_keys(tar_file_expander([{**source, "stream": stream}]))
        stream.finish()


class _ToTheEnd:
    """A stream of a tar archive that notices when its end is missing, which Python's tarfile takes for an end."""

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
        self.stream.close()
        if self.tail != bytes(_BLOCK):
            raise InputError("the mark at the end of a tar archive is missing: it is cut off, or compressed")


def _urls(path: str) -> list[str]:
    from webdataset.shardlists import expand_urls  # noqa: PLC0415

    if Path(path).is_dir():
        urls = [str(file) for file in sorted(Path(path).glob("*.tar"))]
        if not urls:
            raise InputError(f"{path} holds no .tar files")
        return urls
    urls = expand_urls(path)
    for url in urls:
        if _is_local(url) and not Path(url).is_file():
            raise InputError(f"{url} is not a file: give a folder of .tar files, a path or a URL, or a brace pattern")
    return urls


def _is_local(url: str) -> bool:
    return not urlparse(url).scheme
