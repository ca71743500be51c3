"""Whether perturbations lie in the true set of a ball."""

from typing import TYPE_CHECKING

from torch import Tensor

from percep.ball.batch import finite_images

if TYPE_CHECKING:
    from percep.ball import SSIMBall


def inside(ball: "SSIMBall", delta: Tensor) -> Tensor:
    """`(B,)` bool: which float64 perturbations `(B, C, H, W)` lie in the set: see `SSIMBall.contains`."""
    exact = ball.double
    delta, finite = finite_images(delta)
    within = finite & ball.finite
    within &= ((delta >= exact.lowest) & (delta <= exact.highest)).flatten(1).all(1)
    losses = exact.view.losses(exact.reference + delta)
    if ball.floor is not None:
        share = ball.luminance_share
        within &= (losses.luminance <= 1 - ball.floor**share).flatten(1).all(1)
        within &= (losses.contrast <= 1 - ball.floor ** (1 - share)).flatten(1).all(1)
    if ball.mean is not None:
        within &= losses.ssim().flatten(1).mean(1) >= ball.mean.flatten()
    return within
