"""Where a window's taps fall on an image: all that kernels need to know of it."""

import math
from dataclasses import dataclass
from typing import Literal

from percep.errors import InputError

Padding = Literal["reflect", "valid"]


@dataclass(frozen=True)
class Geometry:
    """Taps that sum to 1 along both axes of an image, moved by `stride`.

    Attributes:
        taps: one-dimensional weights; the window's weight at `(i, j)` is `taps[i] * taps[j]`.
        stride: step between neighbouring windows in pixels, at most `size` so that windows leave no hole.
        padding: "reflect" or "valid".
    """

    taps: tuple[float, ...]
    stride: int = 1
    padding: Padding = "reflect"

    def __post_init__(self) -> None:
        if not self.taps or not all(math.isfinite(tap) and tap > 0 for tap in self.taps):
            raise InputError("window taps must be positive and finite")
        if abs(sum(self.taps) - 1.0) > 1e-12:
            raise InputError("window taps must sum to 1")
        if not 1 <= self.stride <= self.size:
            raise InputError(f"window stride must lie in [1, {self.size}] (the window's size), got {self.stride}")
        if self.padding not in ("reflect", "valid"):
            raise InputError(f"window padding must be 'reflect' or 'valid', got {self.padding!r}")

    @property
    def size(self) -> int:
        """Number of taps per side, in pixels."""
        return len(self.taps)

    @property
    def second_moment(self) -> float:
        """Mean squared distance of a tap from the centre along one axis, in pixels squared."""
        centre = (self.size - 1) / 2
        return math.fsum(tap * (i - centre) ** 2 for i, tap in enumerate(self.taps))

    @property
    def overlaps(self) -> bool:
        """Whether neighbouring windows share pixels."""
        return self.stride < self.size or self.padding == "reflect"

    @property
    def is_own_adjoint(self) -> bool:
        """Whether `A' u` is `D A D^-1 u`, where D halves what lies at a border: SSIM's own window is.

        It is so for an odd number of symmetric taps, mirrored at the borders and of stride 1: on the even continuation
        of a line a mean is a symmetric convolution, and there a pixel at a border stands once, any other twice.
        """
        return self.size % 2 == 1 and self.taps == self.taps[::-1] and self.stride == 1 and self.padding == "reflect"

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of windows on a `height x width` image; raises `InputError` if none fits."""
        return self._count(height, "height"), self._count(width, "width")

    @property
    def margins(self) -> tuple[int, int]:
        """Pixels that are mirrored before and after each line of the image."""
        if self.padding == "valid":
            return 0, 0
        before = (self.size - 1) // 2
        return before, self.size - 1 - before

    def _count(self, length: int, name: str) -> int:
        before, after = self.margins
        if length <= after or length + before + after < self.size:
            smallest = self.size if self.padding == "valid" else after + 1
            raise InputError(
                f"image {name} {length} is too small for a {self.size}-tap window with {self.padding} padding: "
                f"at least {smallest} pixels are needed"
            )
        return (length + before + after - self.size) // self.stride + 1
