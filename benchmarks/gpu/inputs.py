"""Images and linear terms that need no file, and what every part is given."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.scale import Scale, scale_of

FLOOR, MEAN = 0.95, 0.999
"""Levels of the balls that are timed."""
SEED = 0


@dataclass(frozen=True)
class Run:
    """What a part is given: the device's type, the folder that traces are written to, seconds to stop starting rows."""

    device_type: str
    folder: Path
    seconds: float

    @property
    def device(self) -> torch.device:
        return torch.device(self.device_type)

    @property
    def scale(self) -> Scale:
        return scale_of(self.device)


def images(
    batch: int, size: tuple[int, int], device: torch.device, dtype: torch.dtype = torch.float32, channels: int = 3
) -> Tensor:
    """`(batch, channels, *size)` multiples of 1/255 in [0, 1], all different: smooth, textured, dark and light regions.

    Smooth fields at two scales with noise whose strength varies over the image; nearly black and nearly white parts
    are clipped.
    """
    generator = torch.Generator().manual_seed(SEED)
    planes = min(batch, 16), channels
    fields = [_field(planes, size, spacing, generator).to(device) for spacing in (32, 8, 16)]
    fields = [F.interpolate(field, size=size, mode="bilinear", align_corners=False) for field in fields]
    noise = torch.randn(fields[0].shape, generator=torch.Generator(device).manual_seed(SEED), device=device)
    pixels = 0.5 + 0.45 * fields[0] + 0.15 * fields[1] + 0.1 * fields[2].clamp_min(0) * noise
    repeated = pixels.to(dtype)[torch.arange(batch, device=device) % len(pixels)]
    # Images of a batch of more than 16 differ by their brightness.
    shift = 0.02 * (torch.arange(batch, device=device, dtype=dtype) // len(pixels)).reshape(-1, 1, 1, 1)
    return ((repeated - shift).clamp(0, 1) * 255).round() / 255


def linear_terms(reference: Tensor) -> Tensor:
    """Normal noise of the reference's shape, stronger in some regions than in others, as gradients of a loss are."""
    generator = torch.Generator(reference.device).manual_seed(SEED + 1)
    noise = torch.randn(reference.shape, generator=generator, device=reference.device, dtype=reference.dtype)
    size = int(reference.shape[-2]), int(reference.shape[-1])
    field = _field((1, 1), size, 16, torch.Generator().manual_seed(SEED + 2)).to(reference)
    return noise.mul_(F.interpolate(field, size=size, mode="bilinear", align_corners=False).exp())


def _field(planes: tuple[int, int], size: tuple[int, int], spacing: int, generator: torch.Generator) -> Tensor:
    """Noise on a grid of that spacing in pixels, to be interpolated to `(*planes, *size)`."""
    return torch.randn(*planes, *(side // spacing + 2 for side in size), generator=generator)
