"""The window of an image with the least SSIM, where a perturbation is easiest to see."""

from dataclasses import dataclass

from torch import Tensor

from percep.windows import Window

REACH = (Window.gaussian().size - 1) // 2
"""Radius of SSIM's window, in pixels."""


@dataclass(frozen=True)
class WorstPlace:
    """The window with the least SSIM.

    Attributes:
        row, column: its central pixel, counted from 0 at the top left.
        ssim: of the worst channel there.
        change: largest absolute change of a value in the window, on the `[0, 1]` range.
    """

    row: int
    column: int
    ssim: float
    change: float

    def box(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns of the window inside an image."""
        return around(self.row, height, REACH), around(self.column, width, REACH)


def worst_place(original: Tensor, adversarial: Tensor, ssim: Tensor) -> WorstPlace | None:
    """Where the SSIM map `(C, H, W)` of two `(C, H, W)` images is least; None where the images are equal."""
    change = (adversarial.double() - original.double()).abs().amax(0)
    if not bool(change.any()):
        return None
    least = ssim.amin(0)
    height, width = least.shape
    row, column = divmod(int(least.argmin()), width)
    rows, columns = around(row, height, REACH), around(column, width, REACH)
    return WorstPlace(row, column, float(least[row, column]), float(change[rows, columns].max()))


def around(middle: int, length: int, reach: int) -> slice:
    """The indices at most `reach` from the middle, on a side of this length."""
    return slice(max(middle - reach, 0), min(middle + reach + 1, length))


def span(middle: int, length: int, size: int) -> slice:
    """`size` indices around the middle, shifted to lie inside a side of this length, or all of a shorter side."""
    start = min(max(middle - size // 2, 0), max(length - size, 0))
    return slice(start, min(start + size, length))
