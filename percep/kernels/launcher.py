"""What launches kernels for a kind of device."""

from typing import Protocol

from torch import Tensor

from percep.kernels.arguments import FloorBalls, Updated, UpdateInputs, WindowExcesses
from percep.kernels.geometry import Geometry


class Launcher(Protocol):
    """The operations that have kernels: `percep.kernels.cpu.launch` and `percep.kernels.gpu.launch` are two of it.

    `percep.windows` and the solvers define them in torch. Tensors may have any strides; results are contiguous, and
    deterministic: rows or tiles have partial sums of their own, which are added in a fixed order.
    """

    def mean(self, values: Tensor, window: Geometry, taps: tuple[float, ...]) -> Tensor:
        """`A v` with the taps given, which are the window's or their squares: `(..., H, W)` to `(..., h, w)`.

        Raises:
            InputError: no window fits on the image.
        """

    def adjoint(self, maps: Tensor, window: Geometry, taps: tuple[float, ...], height: int, width: int) -> Tensor:
        """`A' u` with the taps given, `(..., h, w)` to `(..., height, width)`."""

    def fuses(self, values: Tensor, window: Geometry) -> bool:
        """Whether `product` and `update_multipliers` take images `values`, `(..., H, W)`, and this window."""

    def product(
        self, vector: Tensor, diagonal: Tensor, inner: Tensor, window: Geometry, active: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`M v = diagonal v + A' (inner A v)`, `(B, C, H, W)`, and `<v, M v>`, `(B, 1, 1, 1)`.

        Args:
            vector: v.
            diagonal, inner: broadcasting to `(B, C, H, W)` and `(B, C, h, w)`.
            window: of A.
            active: `(B,)`; of an image that is not, nothing is read, and both results are 0. None is all.

        Raises:
            InputError: no window fits on the image.
        """

    def update_multipliers(self, given: UpdateInputs, window: Geometry) -> Updated:
        """One step of the floor's multipliers, and the ellipsoid's norm; each only if there is one.

        Args:
            given: what the step reads.
            window: of the local moments.
        """


class CPULauncher(Launcher, Protocol):
    """Further operations that have kernels on a CPU only, for windows and images that it `fuses`."""

    def window_excesses(self, delta: Tensor, balls: FloorBalls, tightening: float, window: Geometry) -> WindowExcesses:
        """By how much the windows of `delta` exceed their balls."""

    def project(self, delta: Tensor, amount: Tensor, of_mean: Tensor, balls: FloorBalls, window: Geometry) -> Tensor:
        """`d - 2 (amount (d - k2 x) - of_mean)`, clamped to the pixel range; all `(B, C, H, W)`."""
