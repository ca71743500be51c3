"""The ellipsoid that keeps a mean: an inner approximation of the set, or its expansion at a perturbation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from percep.ball.batch import of_images, per_image
from percep.ssim import C1, C2, Denominators

if TYPE_CHECKING:
    from percep.ball import SSIMBall

_TINY = 1e-300


@dataclass(frozen=True)
class MeanBall:
    """The ellipsoid `sum_i luminance_i mean_i(d)^2 + contrast_i var_i(d) <= budget`, one per image.

    `luminance` and `contrast` are `(B, C, h, w)`: one over the number of windows and over the (bounded or
    expanded) denominators of `1 - S1` and `1 - S2`. `budget` is `(B or 1, 1, 1, 1)`: 1 - mean.
    """

    luminance: Tensor
    contrast: Tensor
    budget: Tensor

    def squared_norm(self, mean: Tensor, variance: Tensor) -> Tensor:
        """`sum_i luminance_i mean_i^2 + contrast_i variance_i` of local moments `(B, C, h, w)`: `(B, 1, 1, 1)`."""
        return per_image(self.luminance * mean**2 + self.contrast * variance)

    def squared_dual_norm(self, mean: Tensor, variance: Tensor) -> Tensor:
        """`sum_i mean_i^2 / luminance_i + variance_i / contrast_i`, likewise."""
        return per_image(mean**2 / self.luminance + variance / self.contrast)

    def select(self, images: Tensor) -> "MeanBall":
        """The ellipsoids of some of the images."""
        return MeanBall(self.luminance[images], self.contrast[images], of_images(self.budget, images))


def denominators(ball: "SSIMBall", expansion: Tensor | None) -> Denominators:
    """The denominators of 1 - S1 and 1 - S2 in the ellipsoid of a float64 ball, `(B, C, h, w)`.

    Args:
        ball: in float64.
        expansion: the perturbation `(B, C, H, W)` at which they are taken; None for their least values in the floor's
            balls, which are those of 0 without a floor.
    """
    if expansion is not None:
        return ball.view.denominators(ball.reference + expansion)
    mean_x, var_x = ball.reference_moments
    squared_y = var_y = torch.zeros_like(mean_x)
    if (sets := ball.floor_sets) is not None:
        squared_y = sets.luminance.least_square(mean_x)
        # Away from 0, where the square root has no derivative.
        var_y = sets.contrast.least_square(var_x.clamp_min(_TINY).sqrt())
    return Denominators(mean_x**2 + squared_y + C1, var_x + var_y + C2)
