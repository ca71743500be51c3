"""Labels of photographs: from a table of names and labels, or from the names themselves."""

import csv
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Protocol, Self

from percep.choices import FROM_NAMES
from percep.errors import InputError
from percep.files import without_suffix

# In this order, as a header may have several; without case and what is no letter or digit.
_NAME_HEADERS = (
    "imageid",
    "imagename",
    "filename",
    "imagepath",
    "filepath",
    "image",
    "file",
    "path",
    "photograph",
    "photo",
    "img",
    "name",
    "key",
    "id",
)
_LABEL_HEADERS = (
    "truelabel",
    "label",
    "labels",
    "labelid",
    "classindex",
    "classid",
    "classidx",
    "class",
    "wordnetid",
    "wnid",
    "synset",
    "classname",
    "category",
    "predictionstring",
    "target",
)
_NIPS_2017 = {"truelabel", "targetclass"}

_DEVKIT = re.compile(r"ilsvrc\d*_(clsloc_)?validation_ground_truth", re.IGNORECASE)
_WAY_OUT = (
    "give LOC_val_solution.csv of Kaggle's ImageNet or Caffe's val.txt, or use data=imagefolder on a folder per class "
    "named by WordNet id"
)
_INDEX = re.compile(r"([+-]?\d+)(\.0*)?")
_WORDNET_ID = re.compile(r"n\d+")
_ID_IN_NAME = re.compile(r"n\d{8}(?!\d)")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"\s+(.*)')
_SPACED = re.compile(r"(.*?\.(?:bmp|gif|jpe?g|pgm|png|ppm|tiff?|webp))\s+([^\s,;].*)", re.IGNORECASE)


class Classes:
    """The classes of a model by what a label may call them: an index, a name, a WordNet id.

    Args:
        class_index: class index by name, such as `Classifier.class_index`; where it is empty, every index is taken.
        first_class: from what indices in labels are counted.
    """

    def __init__(self, class_index: Mapping[str, int], first_class: int = 0) -> None:
        self.class_index, self.first_class = class_index, first_class
        self.count = next(index for index in count() if str(index) not in class_index)
        self._names = {_spaced(name): index for name, index in class_index.items()}
        self._folded: dict[str, int | None] = {}
        for name, index in self._names.items():
            key = name.casefold()
            self._folded[key] = index if self._folded.get(key, index) == index else None

    def find(self, text: str) -> int | None:
        """The class that a label means, or None where it means none.

        The label may be followed by other words: of "n03995372 85 1 499 272" and "65 sea snake" the first word counts,
        of "tench, Tinca tinca" what is before the comma.
        """
        whole = text.strip()
        if _INDEX.fullmatch(whole):
            return self._by_index(whole)
        found = self._by_name(whole)
        if found is None:
            found = self._by_name(whole.partition(",")[0])
        if found is not None:
            return found
        first, *rest = re.split(r"[\s,;]+", whole)
        if _INDEX.fullmatch(first):
            return self._by_index(first)
        if _WORDNET_ID.fullmatch(first) or not any(map(str.isalpha, "".join(rest))):  # not the "sea" of a sea snake
            return self._by_name(first)
        return None

    def misses(self, index: int) -> bool:
        """Whether an index in a label is that of no class."""
        return index < self.first_class or (self.count > 0 and index >= self.first_class + self.count)

    @property
    def described(self) -> str:
        """How a label may say its class."""
        return f"the model's classes, by index from {self.first_class}, name or WordNet id"

    def _by_index(self, text: str) -> int | None:
        index = written_index(text)
        if index is None or self.misses(index):
            return None
        index -= self.first_class
        return self.class_index.get(str(index)) if self.class_index else index

    def _by_name(self, text: str) -> int | None:
        name = _spaced(text)
        found = self._names.get(name)
        return self._folded.get(name.casefold()) if found is None else found


def written_index(text: str) -> int | None:
    """The index that a label begins with; None where it begins with something else."""
    match = _INDEX.fullmatch(re.split(r"[\s,;]+", text.strip())[0])
    return None if match is None or len(match[1]) > 18 else int(match[1])


def _spaced(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


@dataclass(frozen=True)
class Given:
    """What labels say of one photograph: class indices, or the problem with them, as of a `percep.data.Photograph`."""

    label: int | None = None
    target: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Missing:
    """A label without a photograph: the photograph's name, its class where it is one, and the line that says so."""

    name: str
    label: int | None
    line: int


class Labelling(Protocol):
    """What labels say of photographs, in the classes of a model."""

    def give(self, names: Sequence[str]) -> tuple[Given, ...]:
        """What is said of each photograph.

        Args:
            names: paths of all photographs, relative to their folder, with / and endings.
        """

    def missing(self, names: Sequence[str]) -> tuple[Missing, ...]:
        """The labels of no photograph."""


@dataclass(frozen=True)
class LabelRow:
    """One line of a label file, as it is written."""

    line: int
    name: str
    label: str
    target: str | None = None


@dataclass(frozen=True)
class Labels:
    """What a file says of photographs.

    Attributes:
        file: its name, for people.
        rows: in its order.
        has_targets: whether every photograph is to have a target.
        first_class: from what indices in it are counted, 0 or 1.
    """

    file: str
    rows: tuple[LabelRow, ...]
    has_targets: bool = False
    first_class: int = 0

    @classmethod
    def read(
        cls,
        file: str | Path,
        *,
        name_column: str | int | None = None,
        label_column: str | int | None = None,
        target_column: str | int | None = None,
        first_class: int | None = None,
    ) -> Self:
        """Reads a table of names and labels.

        Columns are separated by commas, tabs, semicolons or spaces; there may be a header, a byte order mark, quotes,
        blank lines, and comments after a #. A label is an index, a class name or a WordNet id; other words may follow.
        Kaggle's `LOC_val_solution.csv`, Caffe's `val.txt` and the `images.csv` of the NIPS 2017 competition
        (`first_class=1`) are read as they are.

        Args:
            file: its path.
            name_column, label_column: by header, or by index from 0; otherwise what common headers say, such as ImageId
                and TrueLabel, or without a header the first and the second.
            target_column: of the classes that a targeted attack is to reach, as labels are; None for no targets.
            first_class: from what indices are counted, 0 or 1; None for 0.

        Raises:
            InputError: no such file, no table of names and labels, or columns that it does not have.
        """
        path = Path(file)
        if not path.is_file():
            raise InputError(f"labels {path} is not a file: give a table with a name and a label on each line")
        if _DEVKIT.search(path.name):
            raise InputError(
                f"{path.name} has no names, and its numbers are the devkit's own, in another order than that of the "
                f"WordNet ids, which networks are trained with: {_WAY_OUT}"
            )
        table = _Table(
            path.name,
            _text(path),
            {str(column) for column in (name_column, label_column, target_column) if column is not None},
        )
        name = table.column("name", name_column, _NAME_HEADERS, {table.given(label_column), table.given(target_column)})
        label = table.column("label", label_column, _LABEL_HEADERS, {name, table.given(target_column)})
        target = None if target_column is None else table.column("target", target_column, (), set())
        if first_class is None and table.header is not None and {_plain(name) for name in table.header} >= _NIPS_2017:
            raise InputError(
                f"{path.name} has the columns of the NIPS 2017 competition, whose labels are counted from 1: "
                "give data.first_class=1, or 0 where they are not"
            )
        rows = tuple(
            LabelRow(line, _at(fields, name), _at(fields, label), None if target is None else _at(fields, target))
            for line, fields in table.rows
        )
        return cls(path.name, rows, target is not None, first_class or 0)

    @property
    def digest(self) -> str:
        """Changes when what is said of a photograph does."""
        said = repr((self.rows, self.has_targets, self.first_class)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(said, digest_size=16).hexdigest()

    def of(self, class_index: Mapping[str, int]) -> Labelling:
        """The labels as classes of a model.

        A name in the file and the path of a photograph are matched from their ends, so that either may have more
        folders in front; where nothing else fits, by the file's name alone. With and without its ending a name is the
        same, and upper and lower case are, unless they tell names apart.

        Args:
            class_index: class index by name, such as `Classifier.class_index`.

        Raises:
            InputError: indices that can only be counted from the other number than `first_class`.
        """
        return _FileLabelling(self, Classes(class_index, self.first_class))


class _FileLabelling:
    def __init__(self, labels: Labels, classes: Classes) -> None:
        self.file, self.rows, self.classes = labels.file, labels.rows, classes
        self._check_indices()

    def give(self, names: Sequence[str]) -> tuple[Given, ...]:
        claims = [self._claim(name) for name in names]
        best = _best(claims)
        holders = Counter(row for strength, rows in claims for row in rows if strength == best[row])
        given = []
        for strength, rows in claims:
            shared = next((row for row in rows if holders[row] > 1), None)
            if not rows or any(strength < best[row] for row in rows):
                given.append(Given(problem=f"unlabelled: {self.file} has no label for it"))
            elif shared is not None:
                place = self._place(self.rows[shared])
                given.append(Given(problem=f"unlabelled: {place} names {holders[shared]} photographs"))
            else:
                given.append(self._given([self.rows[row] for row in rows]))
        return tuple(given)

    def missing(self, names: Sequence[str]) -> tuple[Missing, ...]:
        held = _best([self._claim(name) for name in names])
        paths = {_path(self.rows[row].name) for row in held}
        left = {path: row for row in self.rows if (path := _path(row.name)) not in paths}
        return tuple(Missing(row.name, self.classes.find(row.label), row.line) for row in left.values())

    def _check_indices(self) -> None:
        texts = [(row.line, text) for row in self.rows for text in (row.label, row.target) if text is not None]
        indices = [(line, index) for line, text in texts if (index := written_index(text)) is not None]
        other = Classes(self.classes.class_index, 1 - self.classes.first_class)
        wrong = next(((line, index) for line, index in indices if self.classes.misses(index)), None)
        if wrong is not None and not any(other.misses(index) for _, index in indices):
            line, index = wrong
            raise InputError(
                f"line {line} of {self.file}: {index} is none of {self.classes.described}, while all of its indices "
                f"are when counted from {other.first_class}: give data.first_class={other.first_class}"
            )

    def _given(self, rows: Sequence[LabelRow]) -> Given:
        first = rows[0]
        label, target = self._classes(first)
        for row in rows[1:]:
            if self._classes(row) != (label, target):
                lines = f"lines {first.line} and {row.line} of {self.file}"
                return Given(problem=f"unlabelled: {lines} say different things of it")
        problem = self._problem(first, "label", first.label, label)
        if problem is None and first.target is not None:
            problem = self._problem(first, "target", first.target, target)
        return Given(label, target, problem)

    def _classes(self, row: LabelRow) -> tuple[int | None, int | None]:
        return self.classes.find(row.label), None if row.target is None else self.classes.find(row.target)

    def _problem(self, row: LabelRow, kind: str, text: str, found: int | None) -> str | None:
        if found is not None:
            return None
        if not text:
            return f"unlabelled: no {kind} in {self._place(row)}"
        return f"unlabelled: {kind} {text[:40]!r} in {self._place(row)} is none of {self.classes.described}"

    def _place(self, row: LabelRow) -> str:
        return f"line {row.line} of {self.file}"

    @cached_property
    def _index(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Rows by their paths, and by every end of their paths."""
        paths: dict[str, list[int]] = {}
        ends: dict[str, list[int]] = {}
        for place, row in enumerate(self.rows):
            key = _folded(_path(row.name))
            if key:
                paths.setdefault(key, []).append(place)
                for end in _ends(key):
                    ends.setdefault(end, []).append(place)
        return paths, ends

    def _claim(self, name: str) -> tuple[tuple[int, int], list[int]]:
        """How well the rows that fit a photograph's path best do so, and which they are."""
        paths, ends = self._index
        path = _path(name)
        key = _folded(path)
        level, rows = 3, paths.get(key) or ends.get(key, [])
        if not rows:
            level, rows = 2, next((paths[end] for end in _ends(key) if end in paths), [])
        if not rows:
            level, rows = 1, ends.get(key.rpartition("/")[2], [])
            if any(_path(self.rows[row].name) != _path(self.rows[rows[0]].name) for row in rows):
                rows = []
        if not rows:
            return (0, 0), []
        fits = [_fit(_path(self.rows[row].name), path) for row in rows]
        best = max(fits)
        return (level, best), [row for row, fit in zip(rows, fits, strict=True) if fit == best]


def _best(claims: Iterable[tuple[tuple[int, int], list[int]]]) -> dict[int, tuple[int, int]]:
    """How well any photograph fits a row, by row."""
    best: dict[int, tuple[int, int]] = {}
    for strength, rows in claims:
        for row in rows:
            best[row] = max(strength, best.get(row, strength))
    return best


@dataclass(frozen=True)
class NameLabels:
    """Labels that photographs have in their names: a WordNet id at the start, such as n01440764_10026.JPEG."""

    has_targets = False
    digest = FROM_NAMES

    def of(self, class_index: Mapping[str, int]) -> Labelling:
        """The labels as classes of a model; `class_index` as of `Labels.of`."""
        return _NameLabelling(class_index)


class _NameLabelling:
    def __init__(self, class_index: Mapping[str, int]) -> None:
        self.class_index = class_index

    def give(self, names: Sequence[str]) -> tuple[Given, ...]:
        return tuple(self._given(name.rpartition("/")[2]) for name in names)

    def missing(self, names: Sequence[str]) -> tuple[Missing, ...]:
        return ()

    def _given(self, name: str) -> Given:
        found = _ID_IN_NAME.match(name)
        if found is None:
            return Given(problem="unlabelled: its name does not begin with a WordNet id")
        label = self.class_index.get(found[0])
        if label is None:
            return Given(problem=f"unlabelled: {found[0]} is none of the model's classes")
        return Given(label)


class _Table:
    """The rows of a table: numbers of lines, and their fields."""

    def __init__(self, file: str, text: str, columns: set[str]) -> None:
        self.file = file
        lines = [
            (number, line)
            for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1)
            if line.strip() and not line.lstrip().startswith("#")
        ]
        if not lines:
            raise InputError(f"labels {file} is empty")
        if all(_INDEX.fullmatch(line.strip()) for _, line in lines):
            raise InputError(
                f"labels {file} has a number on each line and no names, and nothing says what their order is: "
                f"it needs a name and a label on each line; of ImageNet's validation photographs {_WAY_OUT}"
            )
        separator = _separator([line for _, line in lines])
        rows = list(_split(lines, separator))
        if separator == " " and not columns:
            named = [(number, _named(line)) for number, line in lines]
            if len(rows[0][1]) == 2 or not _is_header(named, columns):  # the label is all that follows the name
                rows = named
        self.header = rows[0][1] if _is_header(rows, columns) else None
        self.rows = rows if self.header is None else rows[1:]
        widths = Counter(len(fields) for _, fields in rows)
        self.width = widths.most_common(1)[0][0] if self.header is None else len(self.header)
        if self.width < 2:
            raise InputError(
                f"labels {file} has one column: it needs a name and a label on each line, separated by a comma, a tab, "
                "a semicolon or spaces"
            )

    def given(self, column: str | int | None) -> int | None:
        """A column that is given, by header or index from 0."""
        if column is None:
            return None
        wanted = str(column)
        if self.header is not None:
            for same in (str.strip, _plain):
                names = [same(name) for name in self.header]
                if same(wanted) in names:
                    return names.index(same(wanted))
        if wanted.isdecimal() and int(wanted) < self.width:
            return int(wanted)
        raise InputError(f"labels {self.file} has no column {wanted!r}: it has {self._columns()}")

    def column(self, kind: str, column: str | int | None, known: Iterable[str], others: set[int | None]) -> int:
        """The column that is given, or that a header says, or the first that is not one of the others."""
        found = self.given(column)
        if found is not None:
            return found
        if self.header is not None:
            names = [_plain(name) for name in self.header]
            for name in known:
                if name in names and names.index(name) not in others:
                    return names.index(name)
            if self.width > 2:
                raise InputError(
                    f"nothing says which column of labels {self.file} is the {kind}: "
                    f"give data.{kind}_column, it has {self._columns()}"
                )
        return next(place for place in range(self.width + len(others)) if place not in others)

    def _columns(self) -> str:
        if self.header is None:
            return f"no header and {self.width} columns, by index from 0"
        return ", ".join(self.header)


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", "replace")
    else:
        text = content.decode("utf-8-sig", "surrogateescape")  # as Python reads names of files
    if "\0" in text:
        raise InputError(f"labels {path} is not a text file: save the table as CSV")
    return text


def _separator(lines: Sequence[str]) -> str:
    if all(map(_SPACED.match, lines[1:] or lines)) and not any("\t" in line for line in lines):
        return " "

    def alike(separator: str) -> int:
        widths = Counter(len(_fields(line, separator)) for line in lines)
        return max((count for width, count in widths.items() if width > 1), default=0)

    best = max("\t,;", key=alike)
    return best if 2 * alike(best) > len(lines) else " "


def _split(lines: Sequence[tuple[int, str]], separator: str) -> Iterator[tuple[int, list[str]]]:
    place = 0
    while place < len(lines):
        number, line = lines[place]
        for end in range(place + 1, min(place + 5, len(lines)) + 1):  # a name may have a line break, in quotes
            joined = "\n".join(text for _, text in lines[place:end])
            if not _is_open(joined, separator):
                line, place = joined, end - 1
                break
        yield number, _fields(line, separator)
        place += 1


def _is_open(line: str, separator: str) -> bool:
    """Whether a quote is not closed in a line."""
    if '"' not in line:
        return False
    try:
        list(csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def _fields(line: str, separator: str) -> list[str]:
    if '"' not in line:
        return [field.strip() for field in (line.split() if separator == " " else line.split(separator))]
    try:
        (fields,) = csv.reader(
            [line],
            delimiter=separator,
            skipinitialspace=True,
            quoting=csv.QUOTE_NONE if _is_open(line, separator) else csv.QUOTE_MINIMAL,
        )
    except (csv.Error, ValueError):
        fields = line.split(separator)
    return [field.strip() for field in fields]


def _named(line: str) -> list[str]:
    """The name and the label of a line with spaces between and in them."""
    text = line.strip()
    quoted = _QUOTED.fullmatch(text)
    if quoted is not None:
        return [quoted[1].replace('""', '"'), quoted[2]]
    spaced = _SPACED.fullmatch(text)
    return [spaced[1], spaced[2]] if spaced is not None else text.split(None, 1)


def _is_header(rows: Sequence[tuple[int, Sequence[str]]], columns: set[str]) -> bool:
    first, rest = rows[0][1], [fields for _, fields in rows[1:]]
    if any(_plain(field) in (*_NAME_HEADERS, *_LABEL_HEADERS) for field in first):
        return all(written_index(field) is None for field in first if field)
    plain = set(map(_plain, first))
    if any(column in first or _plain(column) in plain for column in columns if not column.isdecimal()):
        return True
    labelled = [fields for fields in rest if len(fields) > 1]
    if not labelled or len(first) < 2:
        return False

    def is_number_or_id(fields: Sequence[str]) -> bool:
        return written_index(fields[1]) is not None or bool(_WORDNET_ID.match(fields[1]))

    def is_file(fields: Sequence[str]) -> bool:
        return without_suffix(fields[0]) != fields[0]

    return not is_file(first) and any(
        all(map(test, labelled)) and not test(first) for test in (is_number_or_id, is_file)
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _at(fields: Sequence[str], column: int) -> str:
    return fields[column] if column < len(fields) else ""


def _path(name: str) -> str:
    parts = unicodedata.normalize("NFC", name.strip()).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", without_suffix(path).casefold())


def _ends(path: str) -> Iterator[str]:
    """Every end of a path, the longest first."""
    parts = path.split("/")
    return ("/".join(parts[place:]) for place in range(len(parts)))


def _fit(row: str, photograph: str) -> int:
    """How much alike the common ends of two paths are that differ in case and endings only."""
    parts = min(row.count("/"), photograph.count("/")) + 1
    row, photograph = ("/".join(path.split("/")[-parts:]) for path in (row, photograph))
    if row == photograph:
        return 4
    if row.casefold() == photograph.casefold():
        return 2
    has_ending = without_suffix(row) != row
    if without_suffix(row) == without_suffix(photograph):
        return 1 if has_ending else 3
    return 0
