"""SSIM and its two factors, in kornia's convention.

SSIM = S1 * S2 per window and channel (Wang et al., IEEE TIP 2004), S1 the luminance term and S2 the contrast and
structure term, on a range of 1 with C1 = 0.01^2 and C2 = 0.03^2. Both are computed from the difference of the
images (design of Brunet, Vrscay, Wang, IEEE TIP 2012):

    1 - S1 = mean(d)^2 / (mean(x)^2 + mean(y)^2 + C1)        1 - S2 = var(d) / (var(x) + var(y) + C2)

so that values close to 1 keep their digits: 1 - SSIM of 1e-7 is exact to rounding, where the usual formula
returns noise.

Every constraint on a perturbation d of a reference x is a function of a few moments per window, those of d, of x and of
`d - k x`. Solvers, recovery, layer and attacks ask a `View` for them and for the adjoint. A view is a linear map of the
image followed by a window; today that map is the identity. Another one begins there, and has to be brought to what
averages by a ball's window itself: `WindowQuadratic`, preconditioners, patches, tiles and the oracle. Every variance is
at least 0: it is clamped where it is computed, as rounding may leave a difference of moments below.
"""

from dataclasses import dataclass
from functools import cached_property
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


class Denominators(NamedTuple):
    """Those of `1 - S1`, `mean(x)^2 + mean(y)^2 + C1`, and of `1 - S2`, `var(x) + var(y) + C2`: `(..., h, w)` each."""

    luminance: Tensor
    contrast: Tensor


def variance(window: Window, values: Tensor, mean: Tensor | None = None) -> Tensor:
    """Local weighted variance `A(v*v) - A(v)^2` of `(..., H, W)`, clamped at 0, as `(..., h, w)`."""
    mean = window.mean(values) if mean is None else mean
    return (window.mean(values * values) - mean * mean).clamp_min_(0)


def shifted_variance(variance: Tensor, covariance: Tensor, k: Tensor, reference_variance: Tensor) -> Tensor:
    """`var(d - k x)`, clamped at 0, from `var(d)`, `cov(d, x)` and `var(x)`, per window."""
    return (variance - 2 * k * covariance + k * k * reference_variance).clamp_min_(0)


@dataclass(frozen=True)
class View:
    """What constraints see of a batch of references: their planes in the windows of an SSIM map.

    Attributes:
        window: the SSIM window.
        reference: x, `(B, C, H, W)`.
        reference_mean, reference_variance: local moments of x, `(B, C, h, w)`.
    """

    window: Window
    reference: Tensor
    reference_mean: Tensor
    reference_variance: Tensor

    @classmethod
    def of(cls, window: Window, reference: Tensor) -> "View":
        """The view of references `(B, C, H, W)`, with moments computed in their dtype."""
        mean = window.mean(reference)
        return cls(window, reference, mean, variance(window, reference, mean))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        height, width = self.reference.shape[-2:]
        return int(height), int(width)

    @cached_property
    def coverage(self) -> Tensor:
        """`A'1`, `(1, 1, H, W)`: the total weight of a pixel over all windows, 0 where no window covers it."""
        return self.adjoint(self.reference.new_ones(1, 1, *self.reference_mean.shape[-2:]))

    @cached_property
    def covered(self) -> Tensor:
        """`(1, 1, H, W)` bool: which pixels a window covers."""
        return self.coverage > 0

    def mean(self, values: Tensor) -> Tensor:
        """The local mean of `(B, C, H, W)` values, `(B, C, h, w)`."""
        return self.window.mean(values)

    def adjoint(self, values: Tensor) -> Tensor:
        """The adjoint of `mean`, `(B, C, h, w)` to `(B, C, H, W)`."""
        return self.window.adjoint(values, *self.size)

    def squared_mean(self, values: Tensor) -> Tensor:
        """The local sum of `(B, C, H, W)` values with squared weights, `(B, C, h, w)`: see `Window.squared_mean`."""
        return self.window.squared_mean(values)

    def squared_adjoint(self, values: Tensor) -> Tensor:
        """The adjoint of `squared_mean`, `(B, C, h, w)` to `(B, C, H, W)`."""
        return self.window.squared_adjoint(values, *self.size)

    def moments(self, delta: Tensor) -> "Moments":
        """The local moments of perturbations `(B, C, H, W)`, computed when first asked for."""
        return Moments(self, delta)

    def denominators(self, images: Tensor, mean: Tensor | None = None) -> Denominators:
        """Those of the losses between the references and images y; `mean` is the local mean of y where it is known."""
        mean = self.mean(images) if mean is None else mean
        return Denominators(
            self.reference_mean * self.reference_mean + mean * mean + C1,
            self.reference_variance + variance(self.window, images, mean) + C2,
        )

    def losses(self, images: Tensor) -> Losses:
        """`1 - S1` and `1 - S2` between the references and images y, `(B, C, h, w)` each."""
        return self.moments(images - self.reference).losses(self.denominators(images))

    def select(self, images: Tensor) -> "View":
        """The view of some of the images, an index or boolean tensor."""
        return View(self.window, self.reference[images], self.reference_mean[images], self.reference_variance[images])


@dataclass(frozen=True)
class Moments:
    """Local moments of a perturbation d and of `d - k x`, `(B, C, h, w)` each.

    Attributes:
        view: of the references x.
        delta: d, `(B, C, H, W)`.
    """

    view: View
    delta: Tensor

    @cached_property
    def mean(self) -> Tensor:
        """`mean(d)`."""
        return self.view.mean(self.delta)

    @cached_property
    def variance(self) -> Tensor:
        """`var(d)`."""
        return variance(self.view.window, self.delta, self.mean)

    @cached_property
    def covariance(self) -> Tensor:
        """`cov(d, x)`."""
        return self.view.mean(self.delta * self.view.reference) - self.mean * self.view.reference_mean

    def mean_from(self, k: Tensor) -> Tensor:
        """`mean(d - k x)`, k broadcasting to `(B, C, h, w)`."""
        return self.mean - k * self.view.reference_mean

    def variance_from(self, k: Tensor) -> Tensor:
        """`var(d - k x)`, k broadcasting to `(B, C, h, w)`."""
        return shifted_variance(self.variance, self.covariance, k, self.view.reference_variance)

    def losses(self, denominators: Denominators) -> Losses:
        """`1 - S1` and `1 - S2` between x and y, whose denominators are given."""
        return Losses(self.mean * self.mean / denominators.luminance, self.variance / denominators.contrast)


def ssim_losses(reference: Tensor, images: Tensor, window: Window) -> Losses:
    """`1 - S1` and `1 - S2` between `(..., H, W)` images in `[0, 1]`, per window: `(..., h, w)` each."""
    return View.of(window, reference).losses(images)


def ssim_map(reference: Tensor, images: Tensor, window: Window) -> Tensor:
    """SSIM per window and channel, `(..., H, W)` images in `[0, 1]` to `(..., h, w)` values in `[-1, 1]`."""
    return ssim_losses(reference, images, window).ssim()
