"""SSIM and its two factors, in kornia's convention.

SSIM = S1 * S2 per window and channel (Wang et al., IEEE TIP 2004), S1 the luminance term and S2 the contrast and
structure term, on a range of 1 with C1 = 0.01^2 and C2 = 0.03^2. Both are computed from the difference of the
images (design of Brunet, Vrscay, Wang, IEEE TIP 2012):

    1 - S1 = mean(d)^2 / (mean(x)^2 + mean(y)^2 + C1)        1 - S2 = var(d) / (var(x) + var(y) + C2)

so that values close to 1 keep their digits: 1 - SSIM of 1e-7 is exact to rounding, where the usual formula
returns noise.
"""

from typing import NamedTuple

from torch import Tensor

from percep.windows import Window

C1 = 0.01**2
C2 = 0.03**2


class Losses(NamedTuple):
    """What each factor of SSIM loses, `(..., h, w)` each, at least 0 (and 0 where the images agree)."""

    luminance: Tensor
    contrast: Tensor

    def ssim(self) -> Tensor:
        """The SSIM map, `(1 - luminance) * (1 - contrast)`."""
        return (1 - self.luminance) * (1 - self.contrast)

    def total(self) -> Tensor:
        """1 - SSIM, with the digits that `1 - ssim()` loses where little is lost."""
        return self.luminance + self.contrast - self.luminance * self.contrast


def variance(window: Window, values: Tensor, mean: Tensor | None = None) -> Tensor:
    """Local weighted variance `A(v*v) - A(v)^2` of `(..., H, W)`, clamped at 0, as `(..., h, w)`."""
    mean = window.mean(values) if mean is None else mean
    return (window.mean(values * values) - mean * mean).clamp_min_(0)


def ssim_losses(reference: Tensor, images: Tensor, window: Window) -> Losses:
    """`1 - S1` and `1 - S2` between `(..., H, W)` images in `[0, 1]`, per window: `(..., h, w)` each."""
    difference = images - reference
    mean_x, mean_y, mean_d = window.mean(reference), window.mean(images), window.mean(difference)
    return Losses(
        mean_d * mean_d / (mean_x * mean_x + mean_y * mean_y + C1),
        variance(window, difference, mean_d)
        / (variance(window, reference, mean_x) + variance(window, images, mean_y) + C2),
    )


def ssim_map(reference: Tensor, images: Tensor, window: Window) -> Tensor:
    """SSIM per window and channel, `(..., H, W)` images in `[0, 1]` to `(..., h, w)` values in `[-1, 1]`."""
    return ssim_losses(reference, images, window).ssim()
