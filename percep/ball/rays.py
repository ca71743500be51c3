"""How far the ray of a perturbation runs inside a ball: in its convex set, and in the true set."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from percep.ball.batch import finite_images
from percep.ball.floor import FloorSets
from percep.ball.membership import inside
from percep.ssim import C1, C2, Moments

if TYPE_CHECKING:
    from percep.ball import SSIMBall

_TINY = 1e-300
# A window's moments cancel against each other: in float64 their error is about 1e-16 of the squared pixel range,
# and the smallest squared radius is about 1e-6 of it, so membership is decided to about 1e-10.
_TOLERANCE = 1e-10


def scale(ball: "SSIMBall", delta: Tensor) -> Tensor:
    """`(B,)` float64: the largest s in [0, 1] with `s * delta` in the convex set: see `SSIMBall.scale`."""
    result = torch.full((ball.batch,), torch.inf, dtype=torch.float64, device=ball.reference.device)
    squared_norm, finite = torch.zeros_like(result), ball.finite
    for channels, part in ball.exact:
        values, finite_part = finite_images(delta[:, channels].double())
        finite = finite & finite_part
        limit = torch.where(values > 0, part.highest, part.reference) / values.abs().clamp_min(_TINY)
        # A pixel at the end of its range is inside, exactly.
        limit = torch.where((values == 0) | (limit >= 1), torch.inf, limit)
        result = torch.minimum(result, limit.flatten(1).amin(1))
        moments = part.view.moments(values)
        if (sets := part.floor_sets) is not None:
            result = torch.minimum(result, _scale_into_floor(sets, moments).flatten(1).amin(1))
        if part.ellipsoid is not None:
            squared_norm += part.ellipsoid.squared_norm(moments.mean, moments.variance).flatten()
    if ball.mean is not None:
        result = torch.minimum(result, ((1 - ball.mean.flatten()) / squared_norm.clamp_min(_TINY)).sqrt())
    return torch.where(finite, (result * (1 - _TOLERANCE)).clamp_max(1.0), 0.0)


def boundary(ball: "SSIMBall", delta: Tensor) -> Tensor:
    """`(B,)` float64: the largest s with `s * delta` in the true set, by bisection: see `SSIMBall.boundary`."""
    delta, finite = finite_images(delta.double())
    below = torch.zeros(ball.batch, dtype=torch.float64, device=delta.device)
    above = torch.full_like(below, 4.0)
    for _ in range(42):
        middle = (below + above) / 2
        within = inside(ball, middle[:, None, None, None] * delta)
        below, above = torch.where(within, middle, below), torch.where(within, above, middle)
    return torch.where(finite & ball.finite, below, 0.0)


def _scale_into_floor(sets: FloorSets, moments: Moments) -> Tensor:
    """The largest s with `s d` in both sets of a window, `(B, C, h, w)`.

    The positive root of `s^2 <d, d> - 2 s k <d, x> = k (2 <x, x> + C)`, with the product of the local means for
    luminance and the local covariance for contrast as `<., .>`.
    """
    mean_x, var_x, limits = moments.view.reference_mean, moments.view.reference_variance, []
    for k, quadratic, linear, squared, constant in (
        (sets.luminance.k, moments.mean**2, moments.mean * mean_x, mean_x**2, C1),
        (sets.contrast.k, moments.variance, moments.covariance, var_x, C2),
    ):
        half, slack = k * linear, k * (2 * squared + constant)
        limits.append(slack / ((half * half + quadratic * slack).sqrt() - half).clamp_min(_TINY))
    return torch.minimum(*limits)
