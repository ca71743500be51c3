"""What a perturbation costs in SSIM, and the quadratic form that tells it near a perturbation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from percep.choices import Measure
from percep.errors import InputError
from percep.solvers.quadratic import WindowQuadratic
from percep.ssim import View
from percep.windows import Window

# How much a window's weight changes in one update, at most, and the least share of the largest that it keeps.
_EXPONENT, _LEAST_RATIO, _LEAST_WEIGHT = 0.5, 0.1, 1e-6


def check_measure(measure: Measure) -> None:
    """Raises InputError for a measure that is none."""
    if measure not in get_args(Measure):
        raise InputError(f"measure must be one of {', '.join(get_args(Measure))}, got {measure!r}")


@dataclass(frozen=True)
class Cost:
    """1 - SSIM of a batch, averaged over windows ("mean") or in the worst window ("floor").

    Near a perturbation either is a weighted sum of squared local means and variances. The weights of the mean are
    all alike. Those of the worst window are Lawson's: windows that lose more than others gain weight from step to
    step (`reweight`), until the weighted mean is the maximum.

    Attributes:
        view: of references `(B, C, H, W)` in [0, 1], finite.
        measure: "mean" or "floor".
        weights: `(B, C, h, w)`, of the windows in the quadratic form; they add up to 1 per image.
    """

    view: View
    measure: Measure
    weights: Tensor

    @classmethod
    def of_reference(cls, reference: Tensor, window: Window, measure: Measure) -> Cost:
        """The cost of leaving a reference `(B, C, H, W)`, with all windows of the same weight."""
        view = View.of(window, reference)
        weights = torch.full_like(view.reference_mean, 1 / math.prod(view.reference_mean.shape[1:]))
        return cls(view, measure, weights)

    @property
    def window(self) -> Window:
        """The SSIM window."""
        return self.view.window

    @property
    def reference(self) -> Tensor:
        """The references, `(B, C, H, W)`."""
        return self.view.reference

    def select(self, images: Tensor) -> Cost:
        """The costs of some images, by their indices `(n,)`."""
        return replace(self, view=self.view.select(images), weights=self.weights[images])

    def losses(self, images: Tensor) -> Tensor:
        """1 - SSIM per window, `(B, C, h, w)`, of `(B, C, H, W)` images, by the formulas of `percep.ssim`."""
        moments = self.view.moments(images - self.reference)
        mean = self.view.reference_mean + moments.mean
        return moments.losses(self.view.denominators(images, mean)).total()

    def of(self, losses: Tensor) -> Tensor:
        """The cost `(B,)` of a map of losses."""
        flat = losses.flatten(1)
        return flat.mean(1) if self.measure == "mean" else flat.amax(1)

    def quadratic(self, delta: Tensor) -> WindowQuadratic:
        """M with `<d, M d> / 2` the weighted sum of losses, exact along the ray of `delta` `(B, C, H, W)`."""
        denominators = self.view.denominators(self.reference + delta)
        of_mean, of_variance = (self.weights / each for each in denominators)
        return WindowQuadratic(self.window, self.view.size, of_mean, of_variance)

    def reweight(self, losses: Tensor) -> Cost:
        """The cost after one of Lawson's steps from the losses of a perturbation; itself for the mean.

        Args:
            losses: 1 - SSIM per window, `(B, C, h, w)`.
        """
        if self.measure == "mean":
            return self
        worst = losses.flatten(1).amax(1).reshape(-1, 1, 1, 1)
        ratio = (losses / torch.where(worst > 0, worst, 1.0)).clamp_min(_LEAST_RATIO) ** _EXPONENT
        raised = self.weights * ratio
        raised = torch.maximum(raised, _LEAST_WEIGHT * raised.flatten(1).amax(1).reshape(-1, 1, 1, 1))
        total = raised.flatten(1).sum(1).reshape(-1, 1, 1, 1)
        return replace(self, weights=torch.where(worst > 0, raised / total, self.weights))

    def with_weights_of(self, images: Tensor, selected: Cost) -> Cost:
        """The cost with the weights that a selection of images, by their indices `(n,)`, has now."""
        if self.measure == "mean":
            return self
        return replace(self, weights=self.weights.index_copy(0, images, selected.weights))
