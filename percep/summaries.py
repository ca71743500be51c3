"""How results describe themselves: one line each, a table with one row per image, and files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from percep.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# How far from a level of 1/255, in levels, a value of an 8-bit image may be: 255 * 2^-23 is 3e-5.
_TOLERANCE = 1e-4


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


def save_pngs(folder: Path, images: Tensor, wanted: Sequence[bool]) -> list[str | None]:
    """Writes 8-bit images `(B, C, H, W)`, C of 1 or 3, as PNG files without loss, and gives their names.

    Args:
        folder: where to; made where it is missing.
        images: floating point, multiples of 1/255.
        wanted: which images are written; the others have no name.

    Raises:
        InputError: values between the levels of an 8-bit file, or another number of channels; nothing is written then.
    """
    from PIL import Image  # noqa: PLC0415  `import percep` does not wait for Pillow

    scaled = images.detach().cpu().double() * 255
    if images.shape[1] not in (1, 3) or bool(((scaled - scaled.round()).abs() > _TOLERANCE).any()):
        raise InputError(
            "a PNG file holds 8-bit images of 1 or 3 channels, which these are not: torch.save(result.images, path) "
            "keeps them as they are"
        )
    folder.mkdir(parents=True, exist_ok=True)
    pixels = scaled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    digits = max(4, len(str(len(images))))
    names = [f"{place:0{digits}d}.png" if kept else None for place, kept in enumerate(wanted)]
    for name, image in zip(names, pixels, strict=True):
        if name is not None:
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / name, format="PNG")
    return names
