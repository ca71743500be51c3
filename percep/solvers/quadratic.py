"""A quadratic form of windowed means and variances, matrix-free."""

from functools import cached_property

import torch
from torch import Tensor

from percep import kernels
from percep.ball.batch import per_image
from percep.solvers.preconditioner import Multilevel
from percep.windows import Window


class WindowQuadratic:
    """The matrix of `<d, M d> / 2 = sum_i p_i mean_i(d)^2 + q_i var_i(d) + rho |d|^2 / 2`.

        M = diag(2 A' q + rho) + 2 A' diag(p - q) A

    Args:
        window: whose means and variances are meant.
        size: height and width of the image.
        of_mean: p, `(B, C, h, w)`, at least 0.
        of_variance: q, likewise.
        rho: `(B, 1, 1, 1)` or a number, at least 0.
    """

    def __init__(
        self,
        window: Window,
        size: tuple[int, int],
        of_mean: Tensor,
        of_variance: Tensor,
        rho: Tensor | float = 0.0,
    ) -> None:
        self.window, self.size = window, size
        self._weights, self._rho = (of_mean, of_variance), rho
        self.inner = 2 * (of_mean - of_variance)
        self.variance_adjoint = 2 * self._adjoint(of_variance)
        self.diagonal = self.variance_adjoint + rho

    @cached_property
    def majorizer(self) -> Tensor:
        """The diagonal of a diagonal matrix above M, `(B, C, H, W)`: `p mean^2 + q var <= max(p, q) A(d^2)`."""
        return 2 * self._adjoint(torch.maximum(*self._weights)) + self._rho

    @cached_property
    def exact_diagonal(self) -> Tensor:
        """The diagonal of M, `(B, C, H, W)`, exact away from mirrored pixels; positive where anything reaches."""
        diagonal = self.diagonal + self.window.squared_adjoint(self.inner, *self.size)
        return torch.maximum(diagonal, 1e-6 * self.diagonal)

    @cached_property
    def preconditioner(self) -> Multilevel:
        """An approximation of `M^-1`."""
        mass = self.diagonal + self._adjoint(self.inner)
        return Multilevel(self.window, self.exact_diagonal, self.variance_adjoint, mass)

    def product(self, values: Tensor) -> Tensor:
        """`M v`, one local mean and one adjoint."""
        if kernels.fused_launcher(values, self.window, self.diagonal, self.inner):
            return self.curved(values)[0]
        return self._adjoint(self.inner * self.window.mean(values)).addcmul_(self.diagonal, values)

    def curved(self, values: Tensor, active: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`M v` and `<v, M v>`, `(B, 1, 1, 1)`; of images that are not `active`, `(B, 1, 1, 1)`, they may be 0."""
        if launch := kernels.fused_launcher(values, self.window, self.diagonal, self.inner):
            running = None if active is None else active.flatten()
            return launch.product(values, self.diagonal, self.inner, self.window, running)
        product = self.product(values)
        return product, per_image(values * product)

    def _adjoint(self, values: Tensor) -> Tensor:
        return self.window.adjoint(values, *self.size)
