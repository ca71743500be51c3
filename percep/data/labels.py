"""Labels of photographs: from a table of names and labels, or from the names themselves."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

from percep.choices import FROM_NAMES
from percep.data.class_names import Classes, written_index
from percep.data.files import folded, without_suffix
from percep.data.label_tables import WAY_OUT, Headed, LabelRow, read_table
from percep.errors import InputError

_DEVKIT = re.compile(r"ilsvrc\d*_(clsloc_)?validation_ground_truth", re.IGNORECASE)
_ID_IN_NAME = re.compile(r"n\d{8}(?!\d)")


@dataclass(frozen=True)
class Given:
    """The label of one photograph: class indices, or the problem with them, as of a `percep.data.Photograph`."""

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
    """The labels of photographs as classes of a model."""

    def give(self, names: Sequence[str]) -> tuple[Given, ...]:
        """The label of each photograph.

        Args:
            names: paths of all photographs, relative to their folder, with / and endings. Where there are archives, the
                first part is an archive's name, and what follows the path in it.
        """

    def give_alone(self, name: str) -> Given:
        """The label of a photograph while the others are not known, as in an archive that is read once.

        A label counts only where it names the archive, or has the whole path in it, or a file name that no other has.
        """

    def missing(self, names: Sequence[str]) -> tuple[Missing, ...]:
        """The labels without a photograph."""


def many_missing(missing: Sequence[Missing]) -> str:
    """The status that represents many labels without a photograph."""
    first = missing[0]
    return f"missing: {len(missing)} labels without a photograph, the first is {first.name} in line {first.line}"


@dataclass(frozen=True)
class Labels:
    """A file of labels.

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
                f"WordNet ids, which networks are trained with: {WAY_OUT}"
            )
        columns = {"name": name_column, "label": label_column, "target": target_column}
        table = read_table(path, columns)
        if first_class is None and table.is_of_nips_2017:
            raise InputError(
                f"{path.name} has the columns of the NIPS 2017 competition, whose labels are counted from 1: "
                "give data.first_class=1, or 0 where they are not"
            )
        return cls(path.name, table.rows, target_column is not None, first_class or 0, table.headed)

    @property
    def digest(self) -> str:
        """Of everything in the file that affects a label."""
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
class _Match:
    """The rows that match a photograph best, and the strength of the match; () without any."""

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
        matches = [self._match(name) for name in names]
        best = _best(matches)
        holders = Counter(row for match in matches for row in match.rows if match.strength == best[row])
        given = []
        for name, match in zip(names, matches, strict=True):
            shared = next((row for row in match.rows if holders[row] > 1), None)
            if not match.rows:
                given.append(self._none(name))
            elif any(match.strength < best[row] for row in match.rows):
                given.append(Given(problem=f"unlabelled: {self.file} has no label for it"))
            elif shared is not None:
                place = self._place(self.rows[shared])
                given.append(Given(problem=f"unlabelled: {place} names {holders[shared]} photographs"))
            else:
                given.append(self._given([self.rows[row] for row in match.rows]))
        return tuple(given)

    def give_alone(self, name: str) -> Given:
        match = self._match(name)
        if not match.rows:
            return self._none(name)
        names_archive, _, is_exact, _ = match.strength
        row = self.rows[match.rows[0]]
        if not (names_archive or is_exact) and len(self._index[1][_base(_key(row.name))]) > 1:
            return Given(
                problem=f"unlabelled: {self._place(row)} does not say which archive {row.name} is in, and is not the "
                f"only one of this file name: write {name}"
            )
        return self._given([self.rows[row] for row in match.rows])

    def missing(self, names: Sequence[str]) -> tuple[Missing, ...]:
        held = _best([self._match(name) for name in names])
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

    def _match(self, name: str) -> _Match:
        if not self.archives:
            return self._matching(name)
        match = self._matching(name, names_archive=True)
        return match if match.rows else self._matching(name.partition("/")[2])

    def _matching(self, path: str, *, names_archive: bool = False) -> _Match:
        """The match of a path: that of an archive's name and what follows, or of what is in an archive."""
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
            return _Match()
        fits = [_fit(_path(self.rows[row].name), _path(path)) for row in rows]
        best = max(fits)
        strength = (int(names_archive), common.count("/"), int(is_exact), best)
        return _Match(strength, [row for row, fit in zip(rows, fits, strict=True) if fit == best])

    def _names_another(self, row: int, key: str) -> bool:
        """Whether the folder in front of a path in a row is the name of an archive, which is another one then."""
        return bool(self.archives) and _base(_key(self.rows[row].name)[: -len(key) - 1]) in self.archives


def _best(matches: Iterable[_Match]) -> dict[int, tuple[int, ...]]:
    """The greatest strength of any photograph's match, by row."""
    best: dict[int, tuple[int, ...]] = {}
    for match in matches:
        for row in match.rows:
            best[row] = max(match.strength, best.get(row, ()))
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
    """The similarity, from 0 to 4, of the common ends of two paths that differ in case and endings only."""
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
