"""Whether perturbations lie in a ball."""

from typing import TYPE_CHECKING

from torch import Tensor

from percep.ball.batch import finite_images
from percep.ssim import Losses

if TYPE_CHECKING:
    from percep.ball import SSIMBall


def inside(ball: "SSIMBall", delta: Tensor) -> Tensor:
    """`(B,)` bool: which float64 perturbations `(B, C, H, W)` lie in the set: see `SSIMBall.contains`."""
    within, losses = _in_range(ball, delta)
    if ball.floor is not None:
        for loss, level in zip(losses, ball.floor_factors, strict=True):
            within &= (loss <= 1 - level).flatten(1).all(1)
    if ball.mean is not None:
        within &= losses.ssim().flatten(1).mean(1) >= ball.mean.flatten()
    return within


def keeps_ssim(ball: "SSIMBall", delta: Tensor, reserve: float = 0.0) -> Tensor:
    """`(B,)` bool: as `inside`, but for a floor that S1 S2 keeps, however it is split; with a reserve of SSIM left."""
    within, losses = _in_range(ball, delta)
    ssim = losses.ssim()
    if ball.floor is not None:
        within &= (ssim >= ball.floor + reserve).flatten(1).all(1)
    if ball.mean is not None:
        within &= ssim.flatten(1).mean(1) >= ball.mean.flatten() + reserve
    return within


def _in_range(ball: "SSIMBall", delta: Tensor) -> tuple[Tensor, Losses]:
    """Which perturbations are finite and keep the pixel range, `(B,)` bool, and what SSIM's factors lose."""
    exact = ball.double
    delta, finite = finite_images(delta)
    within = finite & ball.finite & ((delta >= exact.lowest) & (delta <= exact.highest)).flatten(1).all(1)
    return within, exact.view.losses(exact.reference + delta)
