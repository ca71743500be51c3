"""The pictures that panels and contact sheets are made of, as arrays of colours."""

import math
from typing import NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator
from torch import Tensor

# An SSIM map computed in float64 carries rounding of about 1e-13; what is smaller than this is drawn as unchanged.
_LEAST_DISSIMILARITY = 1e-7
_DECADES = 3


class ColouredMap(NamedTuple):
    """A map as `(H, W, 4)` colours, with its scale and the labels of its colour bar by value."""

    colours: np.ndarray
    scale: ScalarMappable
    ticks: dict[float, str]


def photograph(image: Tensor) -> np.ndarray:
    """A `(C, H, W)` image in `[0, 1]`, C of 1 or 3, as `(H, W, 3)` colours."""
    return image.detach().double().cpu().expand(3, -1, -1).permute(1, 2, 0).numpy()


def amplification(perturbation: Tensor) -> int:
    """The factor a `(C, H, W)` perturbation is drawn with: 1, 2 or 5 times a power of ten.

    The largest that clips at most a tenth of the values that changed, so that a few strong pixels do not hide the
    rest; 1 where nothing changed.
    """
    changes = perturbation.detach().double().abs().cpu().numpy()
    changes = changes[changes > 0]
    # Half the range over the typical change, up to the rounding of 8-bit levels held in float32.
    room = 0.5001 / float(np.quantile(changes, 0.9)) if changes.size else 1.0
    power = 10 ** math.floor(math.log10(max(room, 1.0)))
    return max(step * power for step in (1, 2, 5) if step * power <= max(room, 1.0))


def amplified(perturbation: Tensor, factor: int) -> np.ndarray:
    """`1/2 + factor * perturbation`, clipped to the range: mid-grey where nothing changed."""
    return photograph((0.5 + factor * perturbation.double()).clamp(0, 1))


def ssim_colours(ssim: Tensor) -> ColouredMap:
    """The worst channel of a `(C, H, W)` SSIM map, by the logarithm of 1 - SSIM: dark where unchanged.

    Three decades below the largest 1 - SSIM are told apart; on a linear scale an SSIM close to 1 shows its few
    lowest windows and nothing else.
    """
    values = (1 - ssim).amax(0).double().cpu().numpy()
    top = max(float(values.max()), 10 * _LEAST_DISSIMILARITY)
    least = max(top / 10**_DECADES, _LEAST_DISSIMILARITY)
    scale = ScalarMappable(LogNorm(least, top, clip=True), "magma")
    digits = range(math.ceil(-math.log10(top)), math.floor(-math.log10(least)) + 1)
    ticks = {10.0**-count: f"{1 - 10.0**-count:.{max(count, 0)}f}" for count in digits}
    return ColouredMap(scale.to_rgba(values), scale, ticks)


def gradcam_colours(image: Tensor, gradcam: Tensor) -> ColouredMap:
    """Grad-CAM `(H, W)`, scaled to its maximum, over the `(C, H, W)` image in grey."""
    values = gradcam.detach().double().cpu().numpy()
    values = values / values.max() if values.max() > 0 else values
    scale = ScalarMappable(Normalize(0, 1), "inferno")
    opacity = 0.7 * values[..., None]
    grey = photograph(image).mean(-1, keepdims=True)
    colours = opacity * scale.to_rgba(values)[..., :3] + (1 - opacity) * grey
    return ColouredMap(colours, scale, {0.0: "0", 0.5: "0.5", 1.0: "1"})


def allocation_colours(allocation: Tensor) -> ColouredMap:
    """An allocation map `(H, W)`, multiples of the uniform share, from 0 to its 99.9th percentile."""
    values = allocation.detach().double().cpu().numpy()
    top = max(float(np.quantile(values, 0.999)), 1.0)
    scale = ScalarMappable(Normalize(0, top, clip=True), "viridis")
    ticks = {float(tick): f"{tick:g}×" for tick in MaxNLocator(5).tick_values(0, top) if tick <= top}
    return ColouredMap(scale.to_rgba(values), scale, ticks)
