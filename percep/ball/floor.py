"""The sets that keep a floor: in every window one ball of the local mean, and one of the local deviation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from percep.ball.batch import of_images


@dataclass(frozen=True)
class LocalBall:
    """`|statistic(d - k x)| <= radius` per window, with mean (luminance) or deviation (contrast) as statistic.

    The exact sublevel set `S >= 1 - e` of one SSIM factor: `k = e / (1 - e)` and
    `radius^2 = k (2 s(x) + C) + k^2 s(x)`, `s` the squared statistic of the reference. Shapes: `k` broadcasts to
    `(B, C, h, w)`, `radius` is `(B, C, h, w)`.
    """

    k: Tensor
    radius: Tensor

    @classmethod
    def of_level(cls, level: Tensor, squared: Tensor, constant: float, dtype: torch.dtype) -> "LocalBall":
        """The ball `S >= level` of a factor whose squared statistic of the reference and constant are given."""
        k = (1 - level) / level
        radius = (k * (2 * squared + constant) + k * k * squared).sqrt()
        return cls(k.to(dtype), radius.to(dtype))

    @property
    def uniform(self) -> bool:
        """Whether k is the same in all windows of an image."""
        return self.k.shape[1:] == (1, 1, 1)

    def least_square(self, statistic: Tensor) -> Tensor:
        """The least squared statistic of `x + d` over the ball, whose centre is `(1 + k) x`."""
        return ((1 + self.k) * statistic - self.radius).clamp_min(0) ** 2

    def select(self, images: Tensor) -> "LocalBall":
        """The balls of some of the images."""
        return LocalBall(of_images(self.k, images), self.radius[images])


@dataclass(frozen=True)
class FloorSets:
    """The two sets that keep a floor t in every window: `S1 >= t1` and `S2 >= t2`, with t1 t2 = t."""

    luminance: LocalBall
    contrast: LocalBall

    def select(self, images: Tensor) -> "FloorSets":
        """The sets of some of the images."""
        return FloorSets(self.luminance.select(images), self.contrast.select(images))
