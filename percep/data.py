"""Photographs: where they are found, what they are labelled, and how their files become tensors."""

import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from percep.errors import InputError, UnavailableError
from percep.models import Preprocessing

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SHORTEST_SIDE = 11
"""In pixels: the width of SSIM's window. A smaller photograph has no structure to compare."""


@dataclass(frozen=True)
class Photograph:
    """One photograph, read and preprocessed, or the reason why it is not to be attacked.

    Attributes:
        name: unique in its sequence and safe as a file name on every system; without suffix.
        path: the file it comes from.
        image: `(C, H, W)` float32 in `[0, 1]`, multiples of 1/255; None where there is a problem.
        label: class index, or None when it is not known.
        target: class index that an attack is to reach, or None where none was given with the photograph.
        problem: the status of a photograph that is not attacked, one line that begins with its kind: "unreadable:
            REASON"; "unlabelled: REASON" where labels were given, but none of the model's classes for this photograph;
            "missing: REASON" where there is a label without a photograph. None where it can be attacked.
    """

    name: str
    path: Path
    image: Tensor | None
    label: int | None = None
    problem: str | None = None
    target: int | None = None


@dataclass(frozen=True)
class Entry:
    """A photograph that is not decoded yet.

    Attributes:
        name, path, label, target: as of a `Photograph`.
        content: what its file holds, where that is inside an archive; None where `path` is to be read.
        problem: as of a `Photograph`, where it is known before it is decoded.
    """

    name: str
    path: Path
    label: int | None
    content: bytes | None = None
    problem: str | None = None
    target: int | None = None

    def read(self, preprocessing: Preprocessing) -> Photograph:
        """The photograph, or the reason why it is not usable."""
        image, problem = None, self.problem
        if problem is None:
            try:
                image = _to_tensor(
                    preprocessing(_decode(self.path if self.content is None else io.BytesIO(self.content)))
                )
            except InputError as error:
                problem = f"unreadable: {error}"
        return Photograph(self.name, self.path, image, self.label, problem, self.target)


@dataclass(frozen=True)
class Survey:
    """What is known of photographs before they are read.

    Attributes:
        digest: changes when the photographs do, as far as their names tell, or the sizes of archives.
        count: how many there are; None where that is known only once they are read.
    """

    digest: str
    count: int | None


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

    def survey(self) -> Survey: ...

    def __iter__(self) -> Iterator[Photograph]: ...


def survey_of(names: Iterable[str]) -> Survey:
    """A survey by the names of all photographs."""
    digest, count = hashlib.blake2b(digest_size=16), 0
    for count, name in enumerate(names, start=1):  # noqa: B007
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return Survey(digest.hexdigest(), count)


@dataclass(frozen=True)
class Photographs:
    """A sequence of photographs, in a single shard; iterating reads them one by one, and holds none of them."""

    entries: tuple[Entry, ...]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Photograph]:
        return (entry.read(self.preprocessing) for entry in self.entries)

    @property
    def shards(self) -> tuple[str, ...]:
        return ("photographs",)

    def shard(self, number: int) -> Iterator[Entry]:
        assert number == 0
        return iter(self.entries)

    def survey(self) -> Survey:
        return survey_of(entry.name for entry in self.entries)

    def first(self, count: int) -> "Photographs":
        """The first `count` photographs, or all where there are fewer."""
        return replace(self, entries=self.entries[:count])


def samples(preprocessing: Preprocessing) -> Photographs:
    """The twenty labelled ImageNet photographs that the package foolbox carries.

    Raises:
        UnavailableError: foolbox is not installed.
    """
    package = find_spec("foolbox")  # importing it would take seconds
    if package is None or package.origin is None:
        raise UnavailableError("the sample photographs are part of the package foolbox: pip install 'percep[demo]'")
    root = Path(package.origin).parent / "data"
    files = sorted(root.glob("imagenet_*.jpg"))
    return _photographs(root, files, [int(file.stem.split("_")[2]) for file in files], preprocessing)


def folder(path: str | Path, preprocessing: Preprocessing, class_index: Mapping[str, int]) -> Photographs:
    """The photographs of a folder, sorted by path: of one subfolder per class, or loose and without labels.

    Args:
        path: the folder. Its subfolders that hold images, at any depth, are classes.
        preprocessing: how a photograph becomes a classifier's input.
        class_index: class index by name, such as `Classifier.class_index`. A subfolder has one of its names,
            with spaces or underscores. Where none has, but there are as many as classes, they are the classes
            in sorted order, torchvision's `ImageFolder` convention.

    Raises:
        InputError: no such folder, no image in it, loose images beside class subfolders, or a subfolder that
            is none of the classes.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the path of a folder of images")
    loose = sorted(filter(is_image, root.iterdir()))
    classes = {
        subfolder.name: files
        for subfolder in sorted(root.iterdir())
        if subfolder.is_dir() and (files := sorted(filter(is_image, subfolder.rglob("*"))))
    }
    if loose and classes:
        raise InputError(f"{root} holds images beside the class folder {next(iter(classes))}: move one or the other")
    if loose:
        return _photographs(root, loose, [None] * len(loose), preprocessing)
    if not classes:
        raise InputError(f"{root} holds no images, that is no files ending in {', '.join(SUFFIXES)}")
    indices = class_indices(list(classes), class_index)
    labels = [indices[name] for name, files in classes.items() for _ in files]
    return _photographs(root, [file for files in classes.values() for file in files], labels, preprocessing)


def image(path: str | Path, preprocessing: Preprocessing) -> Photographs:
    """One photograph, without a label.

    Raises:
        InputError: the file does not exist or is not a usable image; it is read to find out.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file} is not a file: give the path of an image")
    try:
        _decode(file)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return _photographs(file.parent, [file], [None], preprocessing)


def _photographs(
    root: Path, files: Iterable[Path], labels: Iterable[int | None], preprocessing: Preprocessing
) -> Photographs:
    taken: set[str] = set()
    entries = []
    for file, label in zip(files, labels, strict=True):
        name = unique_name(file.relative_to(root).with_suffix("").as_posix(), taken)
        entries.append(Entry(name, file, label))
    return Photographs(tuple(entries), preprocessing)


def unique_name(stem: str, taken: set[str]) -> str:
    """A file name made of `stem`; `taken` ignores case, as some file systems do, and gains the name."""
    safe = re.sub(r"[^\w.-]+", "_", stem)[:60]
    name, copy = safe, 1
    while name.casefold() in taken:
        copy += 1
        name = f"{safe}-{copy}"
    taken.add(name.casefold())
    return name


def is_image(path: Path) -> bool:
    """Whether a path is that of a file that should be an image."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def class_indices(names: Sequence[str], class_index: Mapping[str, int]) -> dict[str, int]:
    """Class indices of folders by their names, as `folder` finds them.

    Raises:
        InputError: a name that is none of the classes.
    """
    known = {name.replace("_", " "): index for name, index in class_index.items()}
    strangers = [name for name in names if name.replace("_", " ") not in known]
    if not strangers:
        return {name: known[name.replace("_", " ")] for name in names}
    classes = len(set(class_index.values()))
    if len(strangers) == len(names) == classes:
        return {name: index for index, name in enumerate(sorted(names))}
    listed = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
    raise InputError(
        f"labels outside the model's classes: {listed}; "
        f"name the folders after its {classes} classes, by index from 0, name or WordNet id"
    )


def _decode(content: Path | BinaryIO) -> Image.Image:
    """The first frame of an image file as 8-bit RGB, upright, composed on white where it is transparent.

    Raises:
        InputError: the reason why the file is not usable, without its name.
    """
    try:
        with warnings.catch_warnings(), Image.open(content) as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = _to_rgb(ImageOps.exif_transpose(file))
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        raise InputError("not an image of a known format") from error
    except Exception as error:  # whatever a damaged file makes of a decoder
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"damaged, or too large to be read: {reason}") from error
    width, height = picture.size
    if min(width, height) < SHORTEST_SIDE:
        raise InputError(f"{width}x{height} pixels are too few: each side needs {SHORTEST_SIDE}")
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _to_8_bits(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, which Pillow's own conversion would cut off at 255."""
    levels = np.asarray(picture)
    if picture.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise InputError("pixels of more than 16 bits have no known range: convert the image to 8 or 16 bits")
    return Image.fromarray(np.rint(levels / 257).astype(np.uint8))


def _to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float() / 255
