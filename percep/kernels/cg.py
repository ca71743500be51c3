"""Conjugate gradients over the pixel range: what they read, and the operations that have kernels."""

from typing import NamedTuple, Protocol

from torch import Tensor

from percep.kernels.geometry import Geometry


class BoxSystem(NamedTuple):
    """Maximise `<b, d> - <d, M d> / 2` over the pixel range, `M = diag(diagonal) + A' diag(inner) A`.

    Attributes:
        delta: the first d, `(B, C, H, W)`.
        reference: x, likewise; d lies between -x and 1 - x.
        rhs: b, likewise.
        covered: broadcasting to it, 1 at pixels that a window covers, 0 at others, which are not to change.
        diagonal, inner: of M, broadcasting to `(B, C, H, W)` and `(B, C, h, w)`.
        inverse_diagonal: of the preconditioner, `(B, C, H, W)`.
        levels: of its coarse grids, the finest first, the inverse energies of their hats, `(B, C, h', w')`.
        window: of A.
    """

    delta: Tensor
    reference: Tensor
    rhs: Tensor
    covered: Tensor
    diagonal: Tensor
    inner: Tensor
    inverse_diagonal: Tensor
    levels: tuple[Tensor, ...]
    window: Geometry


class CGIterate(Protocol):
    """What conjugate gradients hold of a `BoxSystem`, and their operations.

    A pixel is free if it is inside the range, or its gradient points inwards. Numbers of images, and masks that choose
    some of them, are `(B, 1, 1, 1)`; on a CPU at least one is chosen. Of the others, results are of no use.
    """

    def rhs_weight(self) -> Tensor:
        """`<b, P b>` with b 0 where no window is, P the preconditioner. Before `restart`."""

    def restart(self, chosen: Tensor) -> None:
        """Clamps d to the range, and computes the residual `b - M d` and the free pixels anew."""

    def revise_free(self, chosen: Tensor) -> Tensor:
        """Finds the free pixels at the present residual; returns which images' have changed."""

    def precondition(self, chosen: Tensor) -> Tensor:
        """Scales the free pixels' residual r by the preconditioner: `P r` is kept, `<r, P r>` returned."""

    def multiply(self, beta: Tensor, chosen: Tensor) -> Tensor:
        """Forms the direction p, `P r + beta p`, and `M p`; returns the curvature `<p, M p>`."""

    def move(self, alpha: Tensor, chosen: Tensor) -> Tensor:
        """Adds `alpha p` to d; returns by how much a pixel then is outside the range, at most."""

    def solution(self) -> Tensor:
        """d, clamped to the range."""
