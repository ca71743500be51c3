"""Reads tables of names and labels: separators, quotes, headers, columns."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

from percep.data.class_names import INDEX, WORDNET_ID, Classes, written_index
from percep.data.files import without_suffix
from percep.errors import InputError

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
WAY_OUT = (
    "give LOC_val_solution.csv of Kaggle's ImageNet or Caffe's val.txt, or use data=imagefolder on a folder per class "
    "named by WordNet id"
)
_NIPS_2017 = {"truelabel", "targetclass"}
_HEADER_SAMPLE = 100
"""Rows that decide whether the line above them is a header."""
_COMMENT = re.compile(r"\s*#(\s|$)")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"\s+(.*)')
_SPACED = re.compile(r"(.*?\.(?:bmp|gif|jpe?g|pgm|png|ppm|tiff?|webp))\s+([^\s,;].*)", re.IGNORECASE)


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
        first = self.rows[:_HEADER_SAMPLE]
        return 2 * sum(classes.find(row.label) is not None for row in first) > len(first)


@dataclass(frozen=True)
class LabelTable:
    """What a file says.

    Attributes:
        rows: in its order.
        headed: what it says instead, where only the classes of a model can tell that its first line is a header.
        is_of_nips_2017: whether its first line is that of the NIPS 2017 competition, which counts classes from 1.
    """

    rows: tuple[LabelRow, ...]
    headed: Headed | None
    is_of_nips_2017: bool


def read_table(path: Path, columns: Mapping[str, str | int | None]) -> LabelTable:
    """Reads a table of names and labels.

    Args:
        path: an existing file.
        columns: of `name`, `label` and `target`, by header or index from 0; None for what the header says.

    Raises:
        InputError: no table of names and labels, or columns that it does not have.
    """
    named = {str(column) for column in columns.values() if column is not None}
    lines = _rows(path.name, _text(path), named)
    first = lines[0][1]
    if _is_header(lines, named):
        rows, headed = _Table(path.name, lines[1:], first).labels(columns), None
    else:
        rows, headed = _Table(path.name, lines, None).labels(columns), _headed(path.name, lines, columns)
    return LabelTable(rows, headed, {_plain(field) for field in first} >= _NIPS_2017)


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
    if all(INDEX.fullmatch(line.strip()) for _, line in lines):
        raise InputError(
            f"labels {file} has a number on each line and no names, and nothing says what their order is: "
            f"it needs a name and a label on each line; of ImageNet's validation photographs {WAY_OUT}"
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
        return written_index(fields[1]) is not None or bool(WORDNET_ID.match(fields[1]))

    def is_file(fields: Sequence[str]) -> bool:
        return without_suffix(fields[0]) != fields[0]

    return not is_file(first) and any(
        all(map(test, labelled)) and not test(first) for test in (is_number_or_id, is_file)
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _at(fields: Sequence[str], column: int) -> str:
    return fields[column] if column < len(fields) else ""
