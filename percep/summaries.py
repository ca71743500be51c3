"""How results describe themselves: one line each, and a table with one row per image."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd


def shape_of(values: Tensor) -> str:
    """Shape, dtype and, unless it is the CPU, device: "(4, 3, 224, 224) float32"."""
    place = "" if values.device.type == "cpu" else f" on {values.device}"
    return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}{place}"


def counts_of(kinds: Iterable[str]) -> str:
    """How many there are of each kind, most frequent first: "3 solved, 1 not_finite"; "none" of nothing."""
    counted = Counter(str(kind) for kind in kinds)
    return ", ".join(f"{count} {kind}" for kind, count in counted.most_common()) or "none"


def range_of(values: Tensor) -> str:
    """Least, median and greatest of the numbers that are no NaN: "0.00012 to 0.00081, median 0.00044"."""
    known = values.detach().double().flatten()
    known = known[~torch.isnan(known)]
    if not len(known):
        return "undefined"
    least, most, median = float(known.min()), float(known.max()), float(known.median())
    return f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}, median {median:.3g}"


def table(columns: Mapping[str, Tensor | Sequence[object]]) -> "pd.DataFrame":
    """A data frame with a row per image, its place in the batch as index; columns are `(B,)` each."""
    import pandas as pd  # noqa: PLC0415  `import percep` does not wait for pandas

    plain = {name: values.tolist() if isinstance(values, Tensor) else list(values) for name, values in columns.items()}
    return pd.DataFrame(plain).rename_axis(index="image")
