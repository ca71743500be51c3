"""What is kept of photographs that were examined: maps as block means, and rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from percep.explain import block_means
from percep.study.causal import CurveRow, RegionRow
from percep.study.examination import Examined

KINDS = ("changes", "attention", "confounds", "others")
"""Of maps, as in `Examined`."""
_COUNTED = ("changes", "attention")


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
        """Keeps `(h, w)` block means."""
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
class Kept:
    """What is kept of one photograph.

    Attributes:
        name: of the photograph.
        status: what came of it; nothing else is kept of one that was not "turned".
        maps: of every kind.
        zero: names of the maps of change and attention that were zero everywhere.
        regions, curves: what parts of the perturbation do.
    """

    name: str
    status: str
    maps: tuple[NamedMap, ...] = ()
    zero: tuple[str, ...] = ()
    regions: tuple[RegionRow, ...] = ()
    curves: tuple[CurveRow, ...] = ()


def keep(examined: Examined, block: int) -> list[Kept]:
    """What is kept of the photographs of a batch, `block` pixels to the side of a block."""
    blocks: dict[tuple[str, str], Tensor] = {}
    empty: dict[str, list[bool]] = {}
    for kind in KINDS:
        maps: Mapping[str, Tensor] = getattr(examined, kind)
        blocks |= {(kind, name): block_means(values, block).float().cpu() for name, values in maps.items()}
        if kind in _COUNTED:
            empty |= {name: (~(values != 0).flatten(1).any(1)).tolist() for name, values in maps.items()}
    return [
        Kept(
            name,
            "turned",
            tuple(NamedMap(kind, title, BlockMap.of(means[i])) for (kind, title), means in blocks.items()),
            tuple(title for title, zero in empty.items() if zero[i]),
            tuple(row for row in examined.regions if row.name == name),
            tuple(row for row in examined.curves if row.name == name),
        )
        for i, name in enumerate(examined.names)
    ]


@dataclass(frozen=True)
class Evidence:
    """What is kept of all photographs of one variant that were turned, N of them.

    Attributes:
        names: of the photographs.
        changes, attention, confounds, others: as in `Examined`, `(N, h, w)` float32 block means by name.
        zero: how many maps of each kind were zero everywhere.
        regions, curves: of all photographs.
    """

    names: list[str] = field(default_factory=list)
    changes: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)
    confounds: dict[str, Tensor] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)
    zero: dict[str, int] = field(default_factory=dict)
    regions: list[RegionRow] = field(default_factory=list)
    curves: list[CurveRow] = field(default_factory=list)

    @staticmethod
    def of(photographs: Iterable[Kept]) -> "Evidence":
        """Gathers what was kept of photographs, one at a time; only what was turned counts."""
        evidence = Evidence()
        maps: dict[str, dict[str, list[np.ndarray]]] = {kind: {} for kind in KINDS}
        for kept in photographs:
            if kept.status != "turned":
                continue
            evidence.names.append(kept.name)
            evidence.regions.extend(kept.regions)
            evidence.curves.extend(kept.curves)
            for named in kept.maps:
                maps[named.kind].setdefault(named.name, []).append(named.blocks.array())
                if named.kind in _COUNTED:
                    evidence.zero.setdefault(named.name, 0)
            for name in kept.zero:
                evidence.zero[name] += 1
        for kind in KINDS:
            stacks = getattr(evidence, kind)
            for name in list(maps[kind]):  # what was stacked is let go
                stacks[name] = torch.from_numpy(np.stack(maps[kind].pop(name)))
        return evidence
