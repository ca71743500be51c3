"""Perturbed images on the 8-bit lattice, inside the ball as they are saved."""

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ssim import Losses, ssim_losses

# SSIM losses of float32 images are good to about 1e-4 of themselves, so this much of a budget stays unused.
_RESERVE = 1e-3
_ROUNDS = 40


def quantise(images: Tensor) -> Tensor:
    """The nearest multiples of 1/255 in `[0, 1]`: what an 8-bit file holds."""
    return (images.clamp(0, 1) * 255).round() / 255


def to_lattice(ball: SSIMBall, delta: Tensor, fill: bool) -> Tensor:
    """8-bit images inside the true ball, near `reference + delta`: `(B, C, H, W)`.

    Rounding moves every pixel by up to half a level, which dark flat windows feel. Windows that fall below the
    floor shrink the perturbation over their own pixels; a mean that is missed shrinks all of it; then it is
    rounded again. With nothing left, the image is its reference, which is inside.

    Args:
        ball: the ball of references that are multiples of 1/255.
        delta: `(B, C, H, W)`, finite.
        fill: first enlarge `delta` where that is needed to use the mean's budget up; without a mean, no effect.
    """
    reference = ball.reference
    scale = torch.ones_like(delta)
    if fill and ball.mean is not None:
        losses = ssim_losses(reference, (reference + delta).clamp(0, 1), ball.window)
        scale = scale * _factor(ball, losses).clamp(1, 4)
    best = quantise(reference)
    for _ in range(_ROUNDS):
        images = quantise(reference + scale * delta)
        losses = ssim_losses(reference, images, ball.window)
        shrink = torch.ones_like(scale)
        if ball.floor is not None:
            missed = losses.ssim() < 1 - (1 - ball.floor) * (1 - _RESERVE)
            touched = ball.window.adjoint(missed.to(delta.dtype), int(delta.shape[-2]), int(delta.shape[-1])) > 0
            shrink = torch.where(touched, 0.8, shrink)
        if ball.mean is not None:
            shrink = shrink * _factor(ball, losses).clamp(0.3, 1)
        shrunk = (shrink < 1).flatten(1).any(1)[:, None, None, None]
        best = torch.where(shrunk, best, images)
        if not bool(shrunk.any()):
            break
        scale = scale * torch.where(shrunk, shrink, 1.0)
    return best


def _factor(ball: SSIMBall, losses: Losses) -> Tensor:
    """By how much to scale so that the mean's budget is met, the loss of SSIM being nearly quadratic."""
    assert ball.mean is not None
    lost = (1 - losses.ssim()).flatten(1).mean(1).reshape(-1, 1, 1, 1).double()
    allowed = (1 - ball.mean) * (1 - _RESERVE)
    factor = (allowed / lost.clamp_min(1e-30)).sqrt()
    return torch.where(lost > allowed, factor * (1 - _RESERVE), factor.clamp_min(1)).to(losses.contrast.dtype)
