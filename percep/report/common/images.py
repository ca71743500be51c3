"""Exact 8-bit image files: what is written is what is read back, bit for bit."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from percep.errors import InputError

# A level k/255 held in float32, or reached there by adding a perturbation, is off by at most 255 * 2^-23,
# which is 3e-5 levels. Anything beyond is no 8-bit image and would change when saved.
_TOLERANCE = 1e-4


def save_image(path: Path, image: Tensor) -> None:
    """Writes a `(C, H, W)` image, C of 1 or 3, as an 8-bit grey or RGB PNG without loss.

    Args:
        path: the file to write, ending in `.png`.
        image: floating point, each value a multiple of 1/255 in `[0, 1]`, to within 1e-4 of a level.

    Raises:
        InputError: another shape, or a value between the levels of an 8-bit file.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise InputError(f"an image file holds (1, H, W) or (3, H, W), got {tuple(image.shape)}")
    levels = image.detach().cpu().double() * 255
    rounded = levels.round()
    exact = ((levels - rounded).abs() <= _TOLERANCE) & (rounded >= 0) & (rounded <= 255)
    if not bool(exact.all()):
        raise InputError(f"{path.name}: values must be multiples of 1/255 in [0, 1] to be saved without loss")
    pixels = rounded.to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, format="PNG")


def read_image(path: Path) -> Tensor:
    """Reads what `save_image` wrote: `(C, H, W)` float32, each value `level / 255`.

    Raises:
        InputError: the file is not an 8-bit grey or RGB image.
    """
    with Image.open(path) as file:
        if file.mode not in ("L", "RGB"):
            raise InputError(f"{path.name}: expected an 8-bit grey or RGB image, got mode {file.mode}")
        pixels = np.array(file)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255
