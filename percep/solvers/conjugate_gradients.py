"""Preconditioned conjugate gradients for a batch of symmetric positive semidefinite systems."""

from collections.abc import Callable

import torch
from torch import Tensor

from percep.solvers.quadratic import per_image

_TINY = 1e-30


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    right: Tensor,
    tolerance: float,
    most: int,
    start: Tensor | None = None,
) -> tuple[Tensor, int]:
    """`M^-1 r`, `(B, C, H, W)`, and the steps taken.

    Args:
        product: `M v`.
        precondition: an approximation of `M^-1 v`, symmetric and positive definite.
        right: r, in the range of M.
        tolerance: an image is done when its residual is at most this share of r, in the preconditioner's norm.
        most: steps after which everything is returned as it is.
        start: a first guess; None is 0.
    """
    scaled = precondition(right)
    weight = per_image(scaled * right)
    target = tolerance**2 * weight
    if start is None:
        solution, residual = torch.zeros_like(right), right
    else:
        solution, residual = start, right - product(start)
        scaled = precondition(residual)
        weight = per_image(scaled * residual)
    direction = scaled
    for step in range(most):
        running = weight > target
        if not bool(running.any()):
            return solution, step
        image = product(direction)
        curvature = per_image(direction * image)
        length = torch.where(running & (curvature > 0), weight / curvature.clamp_min(_TINY), 0.0)
        solution = torch.addcmul(solution, length, direction)
        residual = torch.addcmul(residual, length, image, value=-1)
        scaled = precondition(residual)
        previous, weight = weight, per_image(scaled * residual)
        direction = torch.addcmul(scaled, weight / previous.clamp_min(_TINY), direction)
    return solution, most
