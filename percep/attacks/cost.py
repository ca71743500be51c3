"""What a perturbation costs in SSIM, and the quadratic form that tells it near a perturbation."""

import math
from typing import get_args

import torch
from torch import Tensor

from percep.choices import Measure
from percep.errors import InputError
from percep.solvers.quadratic import WindowQuadratic
from percep.ssim import C1, C2, Losses, variance
from percep.windows import Window

# How much a window's weight changes in one update, at most, and the least share of the largest that it keeps.
_EXPONENT, _LEAST_RATIO, _LEAST_WEIGHT = 0.5, 0.1, 1e-6


def check_measure(measure: Measure) -> None:
    """Raises InputError for a measure that is none."""
    if measure not in get_args(Measure):
        raise InputError(f"measure must be one of {', '.join(get_args(Measure))}, got {measure!r}")


class Cost:
    """1 - SSIM of a batch, averaged over windows ("mean") or in the worst window ("floor").

    Near a perturbation either is a weighted sum of squared local means and variances. The weights of the mean are
    all alike. Those of the worst window are Lawson's: windows that lose more than others gain weight from step to
    step (`reweight`), until the weighted mean is the maximum.

    Args:
        reference: `(B, C, H, W)` in [0, 1], finite.
        window: the SSIM window.
        measure: "mean" or "floor".
    """

    def __init__(self, reference: Tensor, window: Window, measure: Measure) -> None:
        self.reference, self.window, self.measure = reference, window, measure
        self.size = (int(reference.shape[-2]), int(reference.shape[-1]))
        self.reference_mean = window.mean(reference)
        self.reference_variance = variance(window, reference, self.reference_mean)
        self.weights = torch.full_like(self.reference_mean, 1 / math.prod(self.reference_mean.shape[1:]))

    def select(self, images: Tensor) -> "Cost":
        """The costs of some of the images; their weights are copies."""
        other = object.__new__(Cost)
        other.window, other.measure, other.size = self.window, self.measure, self.size
        for name in ("reference", "reference_mean", "reference_variance", "weights"):
            setattr(other, name, getattr(self, name)[images])
        return other

    def losses(self, images: Tensor) -> Tensor:
        """1 - SSIM per window, `(B, C, h, w)`, of `(B, C, H, W)` images, by the formulas of `percep.ssim`."""
        delta = images - self.reference
        shift = self.window.mean(delta)
        mean = self.reference_mean + shift
        luminance = shift * shift / (self.reference_mean**2 + mean**2 + C1)
        spread = variance(self.window, images, mean)
        contrast = variance(self.window, delta, shift) / (self.reference_variance + spread + C2)
        return Losses(luminance, contrast).total()

    def of(self, losses: Tensor) -> Tensor:
        """The cost `(B,)` of a map of losses."""
        flat = losses.flatten(1)
        return flat.mean(1) if self.measure == "mean" else flat.amax(1)

    def quadratic(self, delta: Tensor) -> WindowQuadratic:
        """M with `<d, M d> / 2` the weighted sum of losses, exact along the ray of `delta` `(B, C, H, W)`."""
        images = self.reference + delta
        mean = self.window.mean(images)
        spread = variance(self.window, images, mean)
        return WindowQuadratic(
            self.window,
            self.size,
            self.weights / (self.reference_mean**2 + mean**2 + C1),
            self.weights / (self.reference_variance + spread + C2),
        )

    def reweight(self, losses: Tensor) -> None:
        """One of Lawson's steps from the losses of the last perturbation; nothing for the mean."""
        if self.measure == "mean":
            return
        worst = losses.flatten(1).amax(1).reshape(-1, 1, 1, 1)
        ratio = (losses / torch.where(worst > 0, worst, 1.0)).clamp_min(_LEAST_RATIO) ** _EXPONENT
        raised = self.weights * ratio
        raised = torch.maximum(raised, _LEAST_WEIGHT * raised.flatten(1).amax(1).reshape(-1, 1, 1, 1))
        total = raised.flatten(1).sum(1).reshape(-1, 1, 1, 1)
        self.weights = torch.where(worst > 0, raised / total, self.weights)
