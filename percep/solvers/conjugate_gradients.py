"""Preconditioned conjugate gradients for a batch of symmetric positive semidefinite systems."""

from collections.abc import Callable

import torch
from torch import Tensor

from percep.ball.batch import per_image

_TINY = 1e-30


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    preconditioner: Callable[[Tensor], Tensor],
    rhs: Tensor,
    tolerance: float,
    max_steps: int,
    x0: Tensor | None = None,
) -> tuple[Tensor, int]:
    """`M^-1 r`, `(B, C, H, W)`, and the steps taken.

    Args:
        product: `M v`.
        preconditioner: an approximation of `M^-1 v`, symmetric and positive definite.
        rhs: r, in the range of M.
        tolerance: an image is done when its residual is at most this share of r, in the preconditioner's norm.
        max_steps: steps after which everything is returned as it is.
        x0: a first guess; None is 0.
    """
    scaled = preconditioner(rhs)
    weight = per_image(scaled * rhs)
    target = tolerance**2 * weight
    if x0 is None:
        solution, residual = torch.zeros_like(rhs), rhs
    else:
        solution, residual = x0, rhs - product(x0)
        scaled = preconditioner(residual)
        weight = per_image(scaled * residual)
    direction = scaled
    for step in range(max_steps):
        running = weight > target
        if not bool(running.any()):
            return solution, step
        image = product(direction)
        curvature = per_image(direction * image)
        length = torch.where(running & (curvature > 0), weight / curvature.clamp_min(_TINY), 0.0)
        solution = torch.addcmul(solution, length, direction)
        residual = torch.addcmul(residual, length, image, value=-1)
        scaled = preconditioner(residual)
        previous, weight = weight, per_image(scaled * residual)
        direction = torch.addcmul(scaled, weight / previous.clamp_min(_TINY), direction)
    return solution, max_steps
