"""Images and maps as arrays of colours, for panels, contact sheets and pages."""

import math

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from percep.report.common.canvas import ColourScale

# A float64 SSIM map has rounding errors of about 1e-13; 1 - SSIM below this is drawn as unchanged.
_LEAST_DISSIMILARITY = 1e-7
_DECADES = 3

ATTENTION_SCALE = ColourScale(Normalize(0, 1), "inferno", {0.0: "0", 0.5: "0.5", 1.0: "1"})
"""Of Grad-CAM, relative to the largest value told apart."""


def photograph(image: Tensor) -> np.ndarray:
    """A `(C, H, W)` image in `[0, 1]`, C of 1 or 3, as `(H, W, 3)` colours."""
    return image.detach().double().cpu().expand(3, -1, -1).permute(1, 2, 0).numpy()


def amplification(perturbation: Tensor) -> int:
    """The factor a `(C, H, W)` perturbation is drawn with: 1, 2 or 5 times a power of ten.

    The largest that clips at most a tenth of the values that changed, so that a few large ones do not determine the
    scale; 1 where nothing changed.
    """
    changes = perturbation.detach().double().abs().cpu().numpy()
    changes = changes[changes > 0]
    if changes.size == 0:
        return 1
    limit = max(0.5 / float(np.quantile(changes, 0.9)), 1.0)
    power = 10 ** math.floor(math.log10(limit))
    return max(step * power for step in (1, 2, 5) if step * power <= limit)


def amplified(perturbation: Tensor, factor: int) -> np.ndarray:
    """`1/2 + factor * perturbation`, clipped to the range: mid-grey where nothing changed."""
    return photograph((0.5 + factor * perturbation.double()).clamp(0, 1))


def dissimilarity(ssim: Tensor) -> np.ndarray:
    """1 - SSIM of the worst channel, `(H, W)`, of a `(C, H, W)` SSIM map."""
    return (1 - ssim).amax(0).double().cpu().numpy()


def ssim_colours(ssim: Tensor) -> tuple[np.ndarray, ColourScale]:
    """The worst channel of a `(C, H, W)` SSIM map, by the logarithm of 1 - SSIM: dark where unchanged.

    Three decades below the largest 1 - SSIM are shown: on a linear scale, for an SSIM close to 1, only its few lowest
    windows would be visible.
    """
    values = dissimilarity(ssim)
    top = max(float(values.max()), 10 * _LEAST_DISSIMILARITY)
    least = max(top / 10**_DECADES, _LEAST_DISSIMILARITY)
    decades = range(math.ceil(-math.log10(top)), math.floor(-math.log10(least)) + 1)
    ticks = {10.0**-digits: f"{1 - 10.0**-digits:.{max(digits, 0)}f}" for digits in decades}
    scale = ColourScale(LogNorm(least, top, clip=True), "magma", ticks)
    return scale.colours(values), scale


def gradcam_colours(image: Tensor, gradcam: Tensor, top: float = 0.0) -> tuple[np.ndarray, ColourScale]:
    """Grad-CAM `(H, W)`, scaled to `top`, or to its maximum if that is 0, over the `(C, H, W)` image in grey."""
    values = gradcam.detach().double().cpu().numpy()
    top = top or float(values.max())
    values = (values / top).clip(max=1) if top > 0 else values
    opacity = 0.7 * values[..., None]
    grey = photograph(image).mean(-1, keepdims=True)
    return opacity * ATTENTION_SCALE.colours(values)[..., :3] + (1 - opacity) * grey, ATTENTION_SCALE


def allocation_colours(allocation: Tensor) -> tuple[np.ndarray, ColourScale]:
    """An allocation map `(H, W)`, multiples of the uniform share, from 0 to its 99.9th percentile."""
    values = allocation.detach().double().cpu().numpy()
    top = max(float(np.quantile(values, 0.999)), 1.0)
    ticks = {float(tick): f"{tick:g}×" for tick in MaxNLocator(5).tick_values(0, top) if tick <= top}
    scale = ColourScale(Normalize(0, top, clip=True), "viridis", ticks)
    return scale.colours(values), scale
