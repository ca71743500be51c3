"""Results in a line of text, as a table, and as files: shared by the `repr`, `to_pandas` and `save` of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from percep.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# Largest distance, in levels, of a value of an 8-bit image from a multiple of 1/255: 255 * 2^-23 is 3e-5.
_TOLERANCE = 1e-4


def counted(words: Iterable[str]) -> str:
    """Counts of words, the most frequent first: "3 solved, 1 not_finite"; "none" without words."""
    return ", ".join(f"{count} {word}" for word, count in Counter(map(str, words)).most_common()) or "none"


def by_status(photographs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Counts of photographs by kind of status, in order of first occurrence; labels without a photograph count each.

    Args:
        photographs: status and `missing` of each, as of a `percep.data.Photograph`: its problem and `missing`.
    """
    counts: dict[str, int] = {}
    for status, missing in photographs:
        kind = status.partition(":")[0]
        counts[kind] = counts.get(kind, 0) + max(1, missing)
    return counts


def median_of(values: Tensor) -> str:
    """The median of the finite values in three digits, "unknown" where there is none."""
    finite = values.detach().double()[torch.isfinite(values)]
    return f"{float(finite.quantile(0.5)):.3g}" if finite.numel() else "unknown"


def shape_of(values: Tensor) -> str:
    """Shape, dtype and, unless it is the CPU, device: "(4, 3, 224, 224) float32"."""
    place = "" if values.device.type == "cpu" else f" on {values.device}"
    return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}{place}"


def range_of(values: Tensor) -> str:
    """Minimum, maximum and median of the values that are not NaN: "0.00012 to 0.00081, median 0.00044"."""
    known = values.detach().double().flatten()
    known = known[~torch.isnan(known)]
    if not len(known):
        return "undefined"
    lowest, highest = float(known.min()), float(known.max())
    return (
        f"{lowest:.3g}" if lowest == highest else f"{lowest:.3g} to {highest:.3g}, median {float(known.median()):.3g}"
    )


def table(columns: Mapping[str, Tensor | Sequence[object]]) -> pd.DataFrame:
    """One row per image, of `(B,)` tensors on any device and sequences of length B."""
    import pandas as pd  # noqa: PLC0415  `import percep` does not wait for pandas

    lists = {name: value.tolist() if isinstance(value, Tensor) else list(value) for name, value in columns.items()}
    return pd.DataFrame(lists)


def save_pngs(folder: Path, images: Tensor, wanted: Sequence[bool]) -> list[str | None]:
    """Writes 8-bit images `(B, C, H, W)`, C of 1 or 3, as PNG files without loss, and gives their names.

    Args:
        folder: where to; made where it is missing.
        images: floating point, multiples of 1/255.
        wanted: which images are written; the others have no name.

    Raises:
        InputError: values between the levels of an 8-bit file, or another number of channels; a folder
            that cannot be made, at a file's place for instance. Nothing is written then.
    """
    from PIL import Image  # noqa: PLC0415  `import percep` does not wait for Pillow

    scaled = images.detach().cpu().double() * 255
    if images.shape[1] not in (1, 3) or bool(((scaled - scaled.round()).abs() > _TOLERANCE).any()):
        raise InputError(
            "a PNG file holds 8-bit images of 1 or 3 channels, which these are not: torch.save(result.images, path) "
            "keeps them as they are"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"no folder can be made at {folder}: {error.strerror}; name another") from error
    pixels = scaled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    digits = max(4, len(str(len(images))))
    names = [f"{place:0{digits}d}.png" if want else None for place, want in enumerate(wanted)]
    for name, image in zip(names, pixels, strict=True):
        if name is not None:
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / name, format="PNG")
    return names
