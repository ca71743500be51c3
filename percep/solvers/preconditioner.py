"""A multilevel preconditioner for the normal equations of windowed means and variances."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from percep.precision import product
from percep.windows import Window

# On a CPU, dense products with the interpolation matrices are faster than torch's interpolation up to here.
_DENSE_SIDE = 256


class Multilevel:
    """Additive multilevel diagonal scaling (Bramble, Pasciak, Xu, Math. Comp. 1990) of `M`.

    On detail finer than a window, M is close to its diagonal. On anything smoother, a window's variance is its
    own second moment times the squared gradient, so `<d, M d>` is close to the integral of
    `2 q s^2 |grad d|^2 + (2 p + rho) d^2`: a diffusion with a small mass term, on which Jacobi scaling alone
    needs hundreds of steps because the weight p of a window's mean is far below the weight q of its variance.
    Bilinear hats on grids of spacing h, 2h, 4h, ... scaled by the diagonal of that form repair it, and their
    transfers cost less than one product with M.

    Args:
        window: the window of M.
        diagonal: `(B, C, H, W)`, the diagonal of M.
        of_variance: `(B, C, H, W)`, `2 A' q`.
        mass: `(B, C, H, W)`, `2 A' p + rho`.
    """

    def __init__(self, window: Window, diagonal: Tensor, of_variance: Tensor, mass: Tensor) -> None:
        self.inverse_diagonal = _inverse(diagonal)
        second_moment = window.second_moment
        spacing = max(2, math.ceil(2.5 * math.sqrt(second_moment)))
        height, width = size = (int(diagonal.shape[-2]), int(diagonal.shape[-1]))
        stiffness, inertia = of_variance, mass
        self._levels: list[tuple[tuple[int, int], tuple[int, int], Tensor]] = []
        while max(size) > 2:
            coarse = (math.ceil(height / spacing), math.ceil(width / spacing))
            stiffness = F.adaptive_avg_pool2d(stiffness, coarse)
            inertia = F.adaptive_avg_pool2d(inertia, coarse)
            # Of one bilinear hat of half-width h: the integrals of its square and of its squared gradient.
            energy = (2 * spacing / 3) ** 2 * inertia.clamp_min(0) + (8 / 3) * second_moment * stiffness
            self._levels.append((size, coarse, _inverse(energy)))
            size, spacing = coarse, 2 * spacing

    @property
    def inverse_energies(self) -> tuple[Tensor, ...]:
        """Of the hats of every coarse grid, the finest first: `(B, C, h, w)` each."""
        return tuple(inverse for _, _, inverse in self._levels)

    def __call__(self, residual: Tensor) -> Tensor:
        """An approximation of `M^-1 r`, symmetric and positive definite in r."""
        result = self.inverse_diagonal * residual
        return result + self._coarse(residual, 0) if self._levels else result

    def _coarse(self, residual: Tensor, level: int) -> Tensor:
        size, coarse, inverse = self._levels[level]
        restricted = _restrict(residual, size, coarse)
        corrected = inverse * restricted
        if level + 1 < len(self._levels):
            corrected = corrected + self._coarse(restricted, level + 1)
        return _prolong(corrected, size, coarse)


def _restrict(values: Tensor, size: tuple[int, int], coarse: tuple[int, int]) -> Tensor:
    """The adjoint of bilinear interpolation, `(B, C, *size)` to `(B, C, *coarse)`."""
    if max(size) > _DENSE_SIDE:
        restricted: Tensor = torch.ops.aten.upsample_bilinear2d_backward(
            values, size, (*values.shape[:2], *coarse), False
        )
        return restricted
    vertical, horizontal = _interpolations(size, coarse, values)
    return product(vertical.mT, product(values, horizontal))


def _prolong(values: Tensor, size: tuple[int, int], coarse: tuple[int, int]) -> Tensor:
    """Bilinear interpolation, `(B, C, *coarse)` to `(B, C, *size)`."""
    if max(size) > _DENSE_SIDE:
        return F.interpolate(values, size, mode="bilinear", align_corners=False)
    vertical, horizontal = _interpolations(size, coarse, values)
    return product(vertical, product(values, horizontal.mT))


def _interpolations(size: tuple[int, int], coarse: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    vertical, horizontal = (
        _interpolation(*lengths, like.dtype, like.device) for lengths in zip(size, coarse, strict=True)
    )
    return vertical, horizontal


@lru_cache(maxsize=128)
def _interpolation(length: int, coarse: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Linear interpolation along one axis, `(length, coarse)`."""
    identity = torch.eye(coarse, dtype=torch.float64)[None]
    dense = F.interpolate(identity, length, mode="linear", align_corners=False)[0]
    return dense.T.contiguous().to(device, dtype)


def _inverse(values: Tensor) -> Tensor:
    return 1 / values.clamp_min(1e-20)
