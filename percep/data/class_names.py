"""The names of a model's classes in labels and folders: an index, a name, a WordNet id."""

import re
import unicodedata
from collections.abc import Mapping

from percep.data.files import folded

INDEX = re.compile(r"([+-]?\d+)(\.0*)?")
_GROUPED = re.compile(r"\d{1,3}(,\d{3})+")  # 1,000 is not class 1
WORDNET_ID = re.compile(r"n\d+")


class Classes:
    """Finds the class of a model that a label or a folder names: by an index, a name or a WordNet id.

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
        """The class index of a label, or None if it names no class.

        The label may be followed by other words: of "n03995372 85 1 499 272" and "65 sea snake" the first word counts,
        of "tench, Tinca tinca" what is before the comma.
        """
        stripped = text.strip()
        if INDEX.fullmatch(stripped):
            return self._by_index(stripped)
        if _GROUPED.fullmatch(stripped):
            return None
        found = self._by_name(stripped)
        if found is None:
            found = self._by_name(stripped.partition(",")[0])
        if found is not None:
            return found
        first, *rest = re.split(r"[\s,;]+", stripped)
        if INDEX.fullmatch(first):
            return self._by_index(first)
        if WORDNET_ID.fullmatch(first) or not any(map(str.isalpha, "".join(rest))):  # not the "sea" of a sea snake
            return self._by_name(first)
        return None

    def misses(self, index: int) -> bool:
        """Whether an index in a label is out of range."""
        if self._called_by_numbers:
            return self._by_name(str(index)) is None
        return index < self.first_class or (self._counted and self.count > 0 and index >= self.first_class + self.count)

    @property
    def described(self) -> str:
        """The ways to name a class, for messages."""
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
    match = INDEX.fullmatch(re.split(r"[\s,;]+", text.strip())[0])
    return None if match is None or len(match[1]) > 18 else int(match[1])


def _spaced(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())
