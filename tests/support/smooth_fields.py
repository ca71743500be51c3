"""Random maps as smooth as attributions are, for tests of what smoothness does to statistics."""

import math

import torch
from torch import Tensor


def smooth_fields(count: int, side: int, deviation: float, seed: int, *, periodic: bool = True) -> Tensor:
    """`(count, side, side)` float64 Gaussian fields: white noise smoothed by a Gaussian of this deviation in pixels.

    Periodic ones are stationary on the torus; others are cut out of fields of twice the side.
    """
    whole = side if periodic else 2 * side
    frequencies = torch.fft.fftfreq(whole, dtype=torch.float64)
    response = torch.exp(-2 * (math.pi * deviation) ** 2 * (frequencies[:, None] ** 2 + frequencies**2))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, whole, whole, dtype=torch.float64, generator=generator)
    fields = torch.fft.ifft2(torch.fft.fft2(noise) * response).real[:, :side, :side]
    return fields / response.square().mean().sqrt()
