"""Whether perturbations lie in a ball."""

from typing import TYPE_CHECKING

from torch import Tensor

from percep.ball.batch import finite_images

if TYPE_CHECKING:
    from percep.ball import SSIMBall


def keeps_ssim(ball: "SSIMBall", delta: Tensor, reserve: float = 0.0) -> Tensor:
    """`(B,)` bool: as `inside`, but for a floor that S1 S2 keeps, however it is split; with a reserve of SSIM left."""
    exact = ball.double
    delta, finite = finite_images(delta)
    within = finite & ball.finite
    within &= ((delta >= exact.lowest) & (delta <= exact.highest)).flatten(1).all(1)
    ssim = exact.view.losses(exact.reference + delta).ssim()
    if ball.floor is not None:
        within &= (ssim >= ball.floor + reserve).flatten(1).all(1)
    if ball.mean is not None:
        within &= ssim.flatten(1).mean(1) >= ball.mean.flatten() + reserve
    return within


def inside(ball: "SSIMBall", delta: Tensor) -> Tensor:
    """`(B,)` bool: which float64 perturbations `(B, C, H, W)` lie in the set: see `SSIMBall.contains`."""
    exact = ball.double
    delta, finite = finite_images(delta)
    within = finite & ball.finite
    within &= ((delta >= exact.lowest) & (delta <= exact.highest)).flatten(1).all(1)
    losses = exact.view.losses(exact.reference + delta)
    if ball.floor is not None:
        for loss, level in zip(losses, ball.floor_factors, strict=True):
            within &= (loss <= 1 - level).flatten(1).all(1)
    if ball.mean is not None:
        within &= losses.ssim().flatten(1).mean(1) >= ball.mean.flatten()
    return within
