"""A multilevel preconditioner for the normal equations of windowed means and variances."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from percep.windows import Window


class Multilevel:
    """Additive multilevel diagonal scaling (Bramble, Pasciak, Xu, Math. Comp. 1990) of `M`.

    On detail finer than a window, M is close to its diagonal. On anything smoother, a window's variance is its
    own second moment times the squared gradient, so `<d, M d>` is close to the integral of
    `2 q s^2 |grad d|^2 + (2 p + rho) d^2`: a diffusion with a small mass term, on which Jacobi scaling alone
    needs hundreds of steps because the price p of a window's mean is far below the price q of its variance.
    Bilinear hats on grids of spacing h, 2h, 4h, ... scaled by the diagonal of that form repair it, and their
    transfers cost less than one product with M.

    Args:
        window: the window of M.
        diagonal: `(B, C, H, W)`, the diagonal of M.
        variance_price: `(B, C, H, W)`, `2 A' q`.
        mass: `(B, C, H, W)`, `2 A' p + rho`.
    """

    def __init__(self, window: Window, diagonal: Tensor, variance_price: Tensor, mass: Tensor) -> None:
        self.inverse_diagonal = _inverse(diagonal)
        second_moment = window.second_moment
        spacing = max(2, math.ceil(2.5 * math.sqrt(second_moment)))
        height, width = size = (int(diagonal.shape[-2]), int(diagonal.shape[-1]))
        self._levels: list[tuple[tuple[int, int], tuple[int, int], Tensor]] = []
        while max(size) > 2:
            coarse = (math.ceil(height / spacing), math.ceil(width / spacing))
            stiffness = F.adaptive_avg_pool2d(variance_price, coarse)
            inertia = F.adaptive_avg_pool2d(mass, coarse).clamp_min_(0)
            # Of one bilinear hat of half-width h: the integrals of its square and of its squared gradient.
            energy = (2 * spacing / 3) ** 2 * inertia + (8 / 3) * second_moment * stiffness
            self._levels.append((size, coarse, _inverse(energy)))
            size, spacing = coarse, 2 * spacing

    def __call__(self, residual: Tensor) -> Tensor:
        """An approximation of `M^-1 r`, symmetric and positive definite in r."""
        result = self.inverse_diagonal * residual
        return result + self._coarse(residual, 0) if self._levels else result

    def _coarse(self, residual: Tensor, level: int) -> Tensor:
        size, coarse, inverse = self._levels[level]
        restricted = torch.ops.aten.upsample_bilinear2d_backward(residual, size, (*residual.shape[:2], *coarse), False)
        corrected = inverse * restricted
        if level + 1 < len(self._levels):
            corrected = corrected + self._coarse(restricted, level + 1)
        return F.interpolate(corrected, size, mode="bilinear", align_corners=False)


def _inverse(values: Tensor) -> Tensor:
    return 1 / values.clamp_min(1e-20)
