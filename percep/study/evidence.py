"""What a study stores of each photograph: maps as block means, and rows; and the same of all photographs together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from percep.explain import block_means
from percep.study.causal import CurveRow, RegionRow
from percep.study.measurement import Measurements

KINDS = ("changes", "attention", "movement", "confounds", "others")
"""Of maps, as in `Measurements`."""
_COUNTED = ("changes", "attention")
"""Kinds whose maps that are zero everywhere are counted."""

FOOLED = "fooled"
"""The status of a photograph whose saved adversarial image reaches the attack's goal."""

_FORMER_FOOLED, _FORMER_MULTIPLIER = "turned", "price"
"""What parts of run folders written before call `FOOLED`, and the maps of multipliers."""


@dataclass(frozen=True)
class BlockMap:
    """A map of one photograph as block means.

    Attributes:
        height, width: in blocks.
        values: float32, row by row.
    """

    height: int
    width: int
    values: bytes

    @staticmethod
    def of(values: Tensor) -> "BlockMap":
        """Of `(h, w)` block means."""
        height, width = values.shape
        return BlockMap(height, width, values.detach().float().cpu().contiguous().numpy().tobytes())

    def array(self) -> np.ndarray:
        """`(h, w)` float32."""
        return np.frombuffer(self.values, np.float32).reshape(self.height, self.width)


@dataclass(frozen=True)
class NamedMap:
    """A map by its name; `kind` is one of `KINDS`."""

    kind: str
    name: str
    blocks: BlockMap


@dataclass(frozen=True)
class PhotographEvidence:
    """What is stored of one photograph.

    Attributes:
        name: of the photograph.
        status: `FOOLED`, or why there is nothing but a name: "not_found", "misclassified" and so on.
        maps: of every kind.
        zero: names of the maps of change and attention that were zero everywhere.
        regions, curves: the effect of parts of the perturbation.
        label, new_class: class indices, before and after; None in parts of earlier versions, as the next.
        confidence: the label's probability before.
    """

    name: str
    status: str
    maps: tuple[NamedMap, ...] = ()
    zero: tuple[str, ...] = ()
    regions: tuple[RegionRow, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    label: int | None = None
    new_class: int | None = None
    confidence: float | None = None


def is_fooled(status: str) -> bool:
    """Whether a status stored in a run folder, of any version, is `FOOLED`."""
    return status in (FOOLED, _FORMER_FOOLED)


def with_current_names(photograph: PhotographEvidence) -> PhotographEvidence:
    """A record of a run folder of any version, under the names of this one."""
    if photograph.status != _FORMER_FOOLED:
        return photograph

    def current(name: str) -> str:
        prefix, separator, control = name.partition("_")
        return f"multiplier{separator}{control}" if prefix == _FORMER_MULTIPLIER else name

    maps = tuple(replace(one, name=current(one.name)) for one in photograph.maps)
    return replace(photograph, status=FOOLED, maps=maps, zero=tuple(map(current, photograph.zero)))


def photograph_evidence(measurements: Measurements, block: int) -> list[PhotographEvidence]:
    """What is stored of the photographs of a batch, with blocks of `block x block` pixels."""
    blocks: dict[tuple[str, str], Tensor] = {}
    empty: dict[str, list[bool]] = {}
    for kind in KINDS:
        maps: Mapping[str, Tensor] = getattr(measurements, kind)
        blocks |= {(kind, name): block_means(values, block).float().cpu() for name, values in maps.items()}
        if kind in _COUNTED:
            empty |= {name: (~(values != 0).flatten(1).any(1)).tolist() for name, values in maps.items()}
    confidence = measurements.logits_before.softmax(1).gather(1, measurements.labels[:, None])[:, 0]
    facts = (measurements.labels.tolist(), measurements.new_classes.tolist(), confidence.tolist())
    return [
        PhotographEvidence(
            name,
            FOOLED,
            tuple(NamedMap(kind, title, BlockMap.of(means[i])) for (kind, title), means in blocks.items()),
            tuple(title for title, zero in empty.items() if zero[i]),
            tuple(row for row in measurements.regions if row.name == name),
            tuple(row for row in measurements.curves if row.name == name),
            *(values[i] for values in facts),
        )
        for i, name in enumerate(measurements.names)
    ]


@dataclass(frozen=True)
class Evidence:
    """What is stored of all photographs of one variant that were fooled, N of them.

    Attributes:
        names: of the photographs.
        changes, attention, movement, confounds, others: as in `Measurements`, `(N, h, w)` float32 block means by name.
        zero: how many maps of each kind were zero everywhere.
        regions, curves: of all photographs.
        labels, new_classes, confidences: of each, as in `PhotographEvidence`.
    """

    names: list[str] = field(default_factory=list)
    changes: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)
    movement: dict[str, Tensor] = field(default_factory=dict)
    confounds: dict[str, Tensor] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)
    zero: dict[str, int] = field(default_factory=dict)
    regions: list[RegionRow] = field(default_factory=list)
    curves: list[CurveRow] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    new_classes: list[int | None] = field(default_factory=list)
    confidences: list[float | None] = field(default_factory=list)

    @staticmethod
    def of(photographs: Iterable[PhotographEvidence]) -> "Evidence":
        """Gathers the evidence of photographs that were fooled, one photograph at a time."""
        evidence = Evidence()
        maps: dict[str, dict[str, list[np.ndarray]]] = {kind: {} for kind in KINDS}
        for photograph in photographs:
            if photograph.status != FOOLED:
                continue
            evidence.names.append(photograph.name)
            evidence.regions.extend(photograph.regions)
            evidence.curves.extend(photograph.curves)
            evidence.labels.append(photograph.label)
            evidence.new_classes.append(photograph.new_class)
            evidence.confidences.append(photograph.confidence)
            for named in photograph.maps:
                maps[named.kind].setdefault(named.name, []).append(named.blocks.array())
                if named.kind in _COUNTED:
                    evidence.zero.setdefault(named.name, 0)
            for name in photograph.zero:
                evidence.zero[name] += 1
        for kind in KINDS:
            stacks = getattr(evidence, kind)
            for name in list(maps[kind]):  # arrays are released once they are stacked
                stacks[name] = torch.from_numpy(np.stack(maps[kind].pop(name)))
        return evidence
