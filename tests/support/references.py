"""What the tests perturb: photograph crops, flat, black, saturated and noise images; and how far."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

KINDS = ("photograph", "flat", "black", "saturated", "noise")
LEVELS = {"floor": {"floor": 0.95}, "mean": {"mean": 0.99}, "both": {"floor": 0.9, "mean": 0.99}}


def photograph(index: int, size: int, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """A `(1, channels, size, size)` crop of one of foolbox's ImageNet photographs, multiples of 1/255."""
    spec = find_spec("foolbox")
    assert spec is not None and spec.origin is not None
    path = sorted(Path(spec.origin).parent.glob("data/imagenet_*.jpg"))[index]
    image = Image.open(path).convert("RGB" if channels == 3 else "L").resize((160, 160))
    pixels = np.asarray(image.crop((40, 50, 40 + size, 50 + size)), dtype=np.float64) / 255
    pixels = pixels.reshape(size, size, channels)
    return torch.tensor(pixels).permute(2, 0, 1)[None].to(dtype).contiguous()


def reference(kind: str, size: int, channels: int = 1, seed: int = 0) -> Tensor:
    """A `(1, channels, size, size)` float64 image in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, channels, size, size)
    if kind == "photograph":
        return photograph(3 + seed % 5, size)[:, :channels]
    if kind == "flat":
        return torch.full(shape, 0.4, dtype=torch.float64)
    if kind == "black":
        return torch.zeros(shape, dtype=torch.float64)
    if kind == "saturated":
        return (torch.rand(shape, dtype=torch.float64, generator=generator) > 0.5).double()
    return torch.rand(shape, dtype=torch.float64, generator=generator)


def random_like(x: Tensor, seed: int) -> Tensor:
    """Normal noise of the shape and dtype of x."""
    return torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(x.dtype)
