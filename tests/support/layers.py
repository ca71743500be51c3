"""Small programs for the tests of the layer."""

import torch
from torch import Tensor

from percep import SSIMBallLayer, Window
from tests.support.references import photograph

WINDOWS = {
    "stride 1": Window.gaussian(5, 1.0),
    "strided": Window.uniform(4, stride=2, padding="valid"),
    "tiles": Window.uniform(4, stride=4, padding="valid"),
}
LEVELS = {"floor": {"floor": 0.9}, "mean": {"mean": 0.97}, "both": {"floor": 0.9, "mean": 0.94}}
SIDE = 8


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def images(dark: bool = False) -> Tensor:
    """`(2, 1, 8, 8)`; with `dark`, pixels of the second are as black and white as the pixel range allows."""
    x = torch.cat([photograph(3, SIDE)[:, :1], photograph(5, SIDE)[:, :1]]) * 0.9 + 0.05
    if dark:
        x[1] = torch.where(x[1] > x[1].median(), 0.99, 0.01)
    return x


def inputs(level: str, rho: float, dark: bool = False) -> dict[str, Tensor]:
    """Every input of the layer as a leaf, levels and rho one per image."""
    x = images(dark)
    values = {"reference": x, "linear": 0.3 * noise(tuple(x.shape), 1), "anchor": 0.05 * noise(tuple(x.shape), 2)}
    values["proximal"] = torch.full((2,), rho, dtype=torch.float64)
    values |= {name: torch.full((2,), value, dtype=torch.float64) for name, value in LEVELS[level].items()}
    return {name: value.clone().requires_grad_() for name, value in values.items()}


def gradients(layer: SSIMBallLayer, values: dict[str, Tensor], cotangent: Tensor) -> dict[str, Tensor]:
    """Of `<cotangent, layer(...)>` in every input."""
    return dict(zip(values, torch.autograd.grad(layer(**values), list(values.values()), cotangent), strict=True))
