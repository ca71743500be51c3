"""Labels of photographs: from a table of names and labels, or from the names themselves."""

import csv
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import dropwhile
from pathlib import Path
from typing import Protocol, Self

from percep.choices import FROM_NAMES
from percep.errors import InputError
from percep.files import folded, without_suffix

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
_LOOKED_AT = 100
"""Rows that tell whether the line above them is a header."""
_INDEX = re.compile(r"([+-]?\d+)(\.0*)?")
_GROUPED = re.compile(r"\d{1,3}(,\d{3})+")  # 1,000 is not class 1
_WORDNET_ID = re.compile(r"n\d+")
_ID_IN_NAME = re.compile(r"n\d{8}(?!\d)")
_COMMENT = re.compile(r"\s*#(\s|$)")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"\s+(.*)')
_SPACED = re.compile(r"(.*?\.(?:bmp|gif|jpe?g|pgm|png|ppm|tiff?|webp))\s+([^\s,;].*)", re.IGNORECASE)


class Classes:
    """The classes of a model by what a label or a folder may call them: an index, a name, a WordNet id.

    Args:
        class_index: class index by name, such as `Classifier.class_index`; where it is empty, every index is taken.
        first_class: from what indices in labels are counted.
    """

    def __init__(self, class_index: Mapping[str, int], first_class: int = 0) -> None:
        self.class_index, self.first_class = class_index, first_class
        places = sorted(set(class_index.values()))
        counted = [class_index.get(str(number)) for number in range(len(places))] == places
        self.count, self._counted = len(places), counted
        self._called_by_numbers = not counted and any(name.isdecimal() for name in class_index)
        names = (item for item in class_index.items() if not (counted and item[0].isdecimal()))
        self._names = {_spaced(name): index for name, index in names}
        self._folded: dict[str, int | None] = {}
        for name, index in self._names.items():
            key = folded(name)
            self._folded[key] = index if self._folded.get(key, index) == index else None

    def find(self, text: str) -> int | None:
        """The class that a label means, or None where it means none.

        The label may be followed by other words: of "n03995372 85 1 499 272" and "65 sea snake" the first word counts,
        of "tench, Tinca tinca" what is before the comma.
        """
        whole = text.strip()
        if _INDEX.fullmatch(whole):
            return self._by_index(whole)
        if _GROUPED.fullmatch(whole):
            return None
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
        if self._called_by_numbers:
            return self._by_name(str(index)) is None
        return index < self.first_class or (self._counted and self.count > 0 and index >= self.first_class + self.count)

    @property
    def described(self) -> str:
        """How a label may say its class."""
        return f"the model's classes, by index from {self.first_class}, name or WordNet id"

    def _by_index(self, text: str) -> int | None:
        index = written_index(text)
        if index is None or self.misses(index):
            return None
        if self._called_by_numbers:
            return self._by_name(str(index))
        index -= self.first_class
        return self.class_index.get(str(index)) if self.class_index else index

    def _by_name(self, text: str) -> int | None:
        name = _spaced(text)
        found = self._names.get(name)
        return self._folded.get(folded(name)) if found is None else found


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
            names: paths of all photographs, relative to their folder, with / and endings. Where there are archives, the
                first part is an archive's name, and what follows the path in it.
        """

    def give_alone(self, name: str) -> Given:
        """What is said of a photograph while the others are not known, such as of an archive that is read once.

        A label counts only where it names the archive, or has the whole path in it, or a file name that no other has.
        """

    def missing(self, names: Sequence[str]) -> tuple[Missing, ...]:
        """The labels of no photograph."""


def many_missing(missing: Sequence[Missing]) -> str:
    """The problem that stands for many labels without a photograph."""
    first = missing[0]
    return f"missing: {len(missing)} labels without a photograph, the first is {first.name} in line {first.line}"


@dataclass(frozen=True)
class LabelRow:
    """One line of a label file, as it is written."""

    line: int
    name: str
    label: str
    target: str | None = None


@dataclass(frozen=True)
class Headed:
    """What a file says if its first line is a header: that line, read as the others are, and the others."""

    header: LabelRow
    rows: tuple[LabelRow, ...]

    def holds(self, classes: Classes) -> bool:
        """Whether the first line is a header: its label is none of the classes, while those of most others are."""
        if classes.find(self.header.label) is not None:
            return False
        first = self.rows[:_LOOKED_AT]
        return 2 * sum(classes.find(row.label) is not None for row in first) > len(first)


@dataclass(frozen=True)
class Labels:
    """What a file says of photographs.

    Attributes:
        file: its name, for people.
        rows: in its order.
        has_targets: whether every photograph is to have a target.
        first_class: from what indices in it are counted, 0 or 1.
        headed: what it says instead, where only the classes of a model can tell that its first line is a header.
    """

    file: str
    rows: tuple[LabelRow, ...]
    has_targets: bool = False
    first_class: int = 0
    headed: Headed | None = None

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
        blank lines, and above all rows comments after a # and a space. The first line is a header where it names both
        columns, or its label is no class while those of most rows are. A label is an index, a class name or a WordNet
        id; other words may follow. Kaggle's `LOC_val_solution.csv`, Caffe's `val.txt` and the `images.csv` of the NIPS
        2017 competition (`first_class=1`) are read as they are.

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
        named = {str(column) for column in (name_column, label_column, target_column) if column is not None}
        lines = _rows(path.name, _text(path), named)
        first = lines[0][1]
        given = {"name": name_column, "label": label_column, "target": target_column}
        if first_class is None and {_plain(field) for field in first} >= _NIPS_2017:
            raise InputError(
                f"{path.name} has the columns of the NIPS 2017 competition, whose labels are counted from 1: "
                "give data.first_class=1, or 0 where they are not"
            )
        if _is_header(lines, named):
            rows, headed = _Table(path.name, lines[1:], first).labels(given), None
        else:
            rows, headed = _Table(path.name, lines, None).labels(given), _headed(path.name, lines, given)
        return cls(path.name, rows, target_column is not None, first_class or 0, headed)

    @property
    def digest(self) -> str:
        """Changes when what is said of a photograph does."""
        said = repr((self.rows, self.has_targets, self.first_class)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(said, digest_size=16).hexdigest()

    def of(self, class_index: Mapping[str, int], archives: Sequence[str] = ()) -> Labelling:
        """The labels as classes of a model.

        A name in the file and the path of a photograph are matched from their ends, and either may have more folders
        in front: "cat/1.png" is "val/cat/1.png" and "1.png", but never "dog/1.png". With and without its ending a name
        is the same, and upper and lower case are, unless they tell names apart.

        Args:
            class_index: class index by name, such as `Classifier.class_index`.
            archives: names of the archives that the photographs are in, of which a name in the file may begin with one.

        Raises:
            InputError: indices that can only be counted from the other number than `first_class`.
        """
        return _FileLabelling(self, Classes(class_index, self.first_class), archives)


@dataclass(frozen=True)
class _Claim:
    """The rows that fit a photograph best, and how well: the more, the better; () where none does."""

    strength: tuple[int, ...] = ()
    rows: Sequence[int] = ()


class _FileLabelling:
    def __init__(self, labels: Labels, classes: Classes, archives: Sequence[str]) -> None:
        headed = labels.headed
        is_headed = headed is not None and headed.holds(classes)
        self.rows = headed.rows if headed is not None and is_headed else labels.rows
        self.file, self.classes = labels.file, classes
        self.archives = {folded(_path(name)) for name in archives}
        self._check_indices()

    def give(self, names: Sequence[str]) -> tuple[Given, ...]:
        claims = [self._claim(name) for name in names]
        best = _best(claims)
        holders = Counter(row for claim in claims for row in claim.rows if claim.strength == best[row])
        given = []
        for name, claim in zip(names, claims, strict=True):
            shared = next((row for row in claim.rows if holders[row] > 1), None)
            if not claim.rows:
                given.append(self._none(name))
            elif any(claim.strength < best[row] for row in claim.rows):
                given.append(Given(problem=f"unlabelled: {self.file} has no label for it"))
            elif shared is not None:
                place = self._place(self.rows[shared])
                given.append(Given(problem=f"unlabelled: {place} names {holders[shared]} photographs"))
            else:
                given.append(self._given([self.rows[row] for row in claim.rows]))
        return tuple(given)

    def give_alone(self, name: str) -> Given:
        claim = self._claim(name)
        if not claim.rows:
            return self._none(name)
        names_archive, _, is_exact, _ = claim.strength
        row = self.rows[claim.rows[0]]
        if not (names_archive or is_exact) and len(self._index[1][_base(_key(row.name))]) > 1:
            return Given(
                problem=f"unlabelled: {self._place(row)} does not say which archive {row.name} is in, and is not the "
                f"only one of this file name: write {name}"
            )
        return self._given([self.rows[row] for row in claim.rows])

    def missing(self, names: Sequence[str]) -> tuple[Missing, ...]:
        held = _best([self._claim(name) for name in names])
        paths = {_path(self.rows[row].name) for row in held}
        left = {path: row for row in self.rows if (path := _path(row.name)) not in paths}
        return tuple(Missing(row.name, self.classes.find(row.label), row.line) for row in left.values())

    def _none(self, name: str) -> Given:
        """Of a photograph without a row: why it has none."""
        alike = self._index[1].get(_base(_key(name)), [])
        if not alike:
            return Given(problem=f"unlabelled: {self.file} has no label for it")
        more = "" if len(alike) == 1 else f" and {len(alike) - 1} more of this file name"
        return Given(problem=f"unlabelled: {self.file} names {self.rows[alike[0]].name}{more}")

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
            key = _key(row.name)
            if key:
                paths.setdefault(key, []).append(place)
                for end in _ends(key):
                    ends.setdefault(end, []).append(place)
        return paths, ends

    def _claim(self, name: str) -> _Claim:
        if not self.archives:
            return self._matching(name)
        claim = self._matching(name, names_archive=True)
        return claim if claim.rows else self._matching(name.partition("/")[2])

    def _matching(self, path: str, *, names_archive: bool = False) -> _Claim:
        """The claim of a path: that of an archive's name and what follows, or of what is in an archive."""
        paths, ends = self._index
        key = _key(path)
        rows, common = paths.get(key, []), key
        is_exact = bool(rows)
        if not rows:  # rows with more folders
            rows = [row for row in ends.get(key, []) if names_archive or not self._names_another(row, key)]
        if not rows and not names_archive:  # with fewer
            common = next((end for end in _ends(key) if end in paths), key)
            rows = paths.get(common, [])
        if not rows:
            return _Claim()
        fits = [_fit(_path(self.rows[row].name), _path(path)) for row in rows]
        best = max(fits)
        strength = (int(names_archive), common.count("/"), int(is_exact), best)
        return _Claim(strength, [row for row, fit in zip(rows, fits, strict=True) if fit == best])

    def _names_another(self, row: int, key: str) -> bool:
        """Whether the folder in front of a path in a row is the name of an archive, which is another one then."""
        return bool(self.archives) and _base(_key(self.rows[row].name)[: -len(key) - 1]) in self.archives


def _best(claims: Iterable[_Claim]) -> dict[int, tuple[int, ...]]:
    """How well any photograph fits a row, by row."""
    best: dict[int, tuple[int, ...]] = {}
    for claim in claims:
        for row in claim.rows:
            best[row] = max(claim.strength, best.get(row, ()))
    return best


@dataclass(frozen=True)
class NameLabels:
    """Labels that photographs have in their names: a WordNet id at the start, such as n01440764_10026.JPEG."""

    has_targets = False
    digest = FROM_NAMES

    def of(self, class_index: Mapping[str, int], archives: Sequence[str] = ()) -> Labelling:
        """The labels as classes of a model; `class_index` and `archives` as of `Labels.of`."""
        return _NameLabelling(class_index)


class _NameLabelling:
    def __init__(self, class_index: Mapping[str, int]) -> None:
        self.class_index = class_index

    def give(self, names: Sequence[str]) -> tuple[Given, ...]:
        return tuple(map(self.give_alone, names))

    def give_alone(self, name: str) -> Given:
        return self._given(_base(name))

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
    """A table, with the column names or without: numbers of lines, and their fields."""

    def __init__(self, file: str, rows: Sequence[tuple[int, list[str]]], header: list[str] | None) -> None:
        self.file, self.rows, self.header = file, rows, header
        widths = Counter(len(fields) for _, fields in rows)
        self.width = widths.most_common(1)[0][0] if header is None else len(header)
        if self.width < 2:
            raise InputError(
                f"labels {file} has one column: it needs a name and a label on each line, separated by a comma, a tab, "
                "a semicolon or spaces"
            )

    def labels(self, columns: Mapping[str, str | int | None]) -> tuple[LabelRow, ...]:
        """The rows, by the columns that are given for name, label and target; None where they are not.

        Raises:
            InputError: columns that the table does not have, or that nothing says.
        """
        given = {kind: self.given(column) for kind, column in columns.items()}
        target = given["target"]
        name, label = given["name"], given["label"]
        name = self.said(_NAME_HEADERS, {label, target}) if name is None else name
        label = self.said(_LABEL_HEADERS, {name, target}) if label is None else label
        name = self.left("name", {label, target}) if name is None else name
        label = self.left("label", {name, target}) if label is None else label
        # A name of a class may hold commas that nobody quoted.
        last = self.header is not None and label == self.width - 1
        return tuple(
            LabelRow(
                line,
                _at(fields, name),
                ", ".join(fields[label:]) if last else _at(fields, label),
                None if target is None else _at(fields, target),
            )
            for line, fields in self.rows
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

    def said(self, known: Iterable[str], others: set[int | None]) -> int | None:
        """The column that a header says, which is none of the others."""
        names = [] if self.header is None else [_plain(name) for name in self.header]
        return next((names.index(name) for name in known if name in names and names.index(name) not in others), None)

    def left(self, kind: str, others: set[int | None]) -> int:
        """The first column that is none of the others, where a header leaves no choice."""
        if self.header is not None and self.width > 2:
            raise InputError(
                f"nothing says which column of labels {self.file} is the {kind}: "
                f"give data.{kind}_column, it has {self._columns()}"
            )
        return next(place for place in range(self.width + len(others)) if place not in others)

    def _columns(self) -> str:
        if self.header is None:
            return f"no header and {self.width} columns, by index from 0"
        return ", ".join(self.header)


def _headed(file: str, lines: Sequence[tuple[int, list[str]]], given: Mapping[str, str | int | None]) -> Headed | None:
    """What a table says if its first line is a header; None where it is none."""
    if not _may_be_header(lines):
        return None
    try:
        header, *rows = _Table(file, lines, lines[0][1]).labels(given)
    except InputError:
        if _is_unlike(lines):
            raise
        return None
    return Headed(header, tuple(rows))


def _rows(file: str, text: str, named: set[str]) -> list[tuple[int, list[str]]]:
    """Numbers of lines, and their fields.

    Args:
        file: its name, for people.
        text: what it holds.
        named: the columns that are given, by header or index.
    """
    lines = [line for line in enumerate(re.split(r"\r\n|\r|\n", text), start=1) if line[1].strip()]
    lines = list(dropwhile(lambda line: _COMMENT.match(line[1]), lines))
    if not lines:
        raise InputError(f"labels {file} is empty")
    if all(_INDEX.fullmatch(line.strip()) for _, line in lines):
        raise InputError(
            f"labels {file} has a number on each line and no names, and nothing says what their order is: "
            f"it needs a name and a label on each line; of ImageNet's validation photographs {_WAY_OUT}"
        )
    separator = _separator([line for _, line in lines])
    rows = list(_split(lines, separator))
    if separator == " " and not named and (len(rows[0][1]) == 2 or not _is_header(rows, named)):
        return [(number, _named(line)) for number, line in lines]  # the label is all that follows the name
    return rows


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


def _is_header(rows: Sequence[tuple[int, Sequence[str]]], named: set[str]) -> bool:
    """Whether the first line names the columns: those that are given, or one of names and one of labels."""
    first = rows[0][1]
    plain = set(map(_plain, first))
    if any(column in first or _plain(column) in plain for column in named if not column.isdecimal()):
        return True
    return _has_no_index(first) and not plain.isdisjoint(_NAME_HEADERS) and not plain.isdisjoint(_LABEL_HEADERS)


def _may_be_header(rows: Sequence[tuple[int, Sequence[str]]]) -> bool:
    """Whether the first line may name the columns, which the classes of a model decide."""
    first = rows[0][1]
    if not {*map(_plain, first)}.isdisjoint((*_NAME_HEADERS, *_LABEL_HEADERS)):
        return _has_no_index(first)
    return _is_unlike(rows)


def _has_no_index(fields: Iterable[str]) -> bool:
    return all(written_index(field) is None for field in fields if field)


def _is_unlike(rows: Sequence[tuple[int, Sequence[str]]]) -> bool:
    """Whether all lines but the first have a file in front, or a number or WordNet id behind."""
    first, rest = rows[0][1], [fields for _, fields in rows[1:]]
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


def _key(name: str) -> str:
    """What names of a photograph have in common that differ in case and endings."""
    return folded(without_suffix(_path(name)))


def _base(path: str) -> str:
    return path.rpartition("/")[2]


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
