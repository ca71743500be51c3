"""From a nearly feasible perturbation to one strictly inside the ball, losing little."""

import torch
from torch import Tensor

from percep.ball import SSIMBall

_TIGHTENING = 1e-4


def restore(ball: SSIMBall, delta: Tensor, rounds: int = 60) -> Tensor:
    """A perturbation strictly inside the ball's convex set, near `delta` `(B, C, H, W)`, in its dtype.

    First the floor's violated windows are treated where they are: simultaneous projections onto the
    linearised constraints, each divided by the number of violated windows that overlap it. What is left is
    removed by one scaling per image, in float64 and in closed form. Only that last step acts on whole images,
    so a bad window costs its neighbourhood and not the rest.
    """
    delta = delta.clamp(ball.lowest, ball.highest)
    if ball.contrast is not None:
        for _ in range(rounds):
            step = _repair(ball, delta)
            if step is None:
                break
            delta = (delta - step).clamp(ball.lowest, ball.highest)
    return shrink(ball, delta)


def shrink(ball: SSIMBall, delta: Tensor) -> Tensor:
    """`delta` clipped to the pixel range and scaled, by at most 1, until it is inside as rounded to its dtype."""
    spacing = torch.finfo(delta.dtype).eps if delta.dtype != torch.float64 else 0.0
    exact = delta.clamp(ball.lowest, ball.highest).double()
    factor = ball.scale(exact)
    for _ in range(60):
        result = (factor[:, None, None, None] * exact).to(delta.dtype)
        result = result.clamp(ball.lowest, ball.highest)
        left = ball.scale(result.double())
        if bool((left >= 1).all()):
            return result
        factor = torch.where(left < 1, factor * left * (1 - 4 * spacing), factor)
    return torch.where((left >= 1)[:, None, None, None], result, torch.zeros_like(result))


def _repair(ball: SSIMBall, delta: Tensor) -> Tensor | None:
    """One round of averaged projections onto violated windows; None if there are none."""
    luminance, contrast, window = ball.luminance, ball.contrast, ball.window
    assert luminance is not None and contrast is not None
    height, width = (int(side) for side in delta.shape[-2:])
    mean_d = window.mean(delta)
    mean_x, var_x = ball.reference_mean, ball.reference_variance
    cov = window.mean(delta * ball.reference) - mean_d * mean_x
    k = contrast.k
    var_v = window.mean(delta * delta) - mean_d * mean_d - 2 * k * cov + k * k * var_x
    squared = contrast.radius**2
    too_varied = var_v > squared
    shift = mean_d - luminance.k * mean_x
    too_bright = shift.abs() > luminance.radius
    if not bool(too_varied.any() | too_bright.any()):
        return None

    step = torch.zeros_like(delta)
    if bool(too_varied.any()):
        # Projection onto the linearisation of q = var(v) - R^2 <= 0: q / |grad q|^2 along grad q = 2 w (v - mean v).
        excess = torch.where(too_varied, var_v - (1 - _TIGHTENING) * squared, 0.0)
        mean_v = mean_d - k * mean_x
        norm = 4 * _gradient_norm(ball, delta, k, mean_v)
        crowd = _crowd(ball, too_varied)
        amount = excess / (norm * crowd).clamp_min(torch.finfo(delta.dtype).tiny * 1e8)
        step = 2 * (
            delta * window.adjoint(amount, height, width)
            - ball.reference * window.adjoint(k * amount, height, width)
            - window.adjoint(amount * mean_v, height, width)
        )
    if bool(too_bright.any()):
        target = (1 - _TIGHTENING) * luminance.radius
        excess = torch.where(too_bright, shift - shift.clamp(-target, target), 0.0)
        weight = window.squared_mean(torch.ones_like(delta[:1, :1]))
        step = step + window.adjoint(excess / (weight * _crowd(ball, too_bright)), height, width)
    return step


def _gradient_norm(ball: SSIMBall, delta: Tensor, k: Tensor, mean_v: Tensor) -> Tensor:
    """`sum_j w_j^2 (v_j - mean v)^2` per window, v = d - k x."""
    window = ball.window
    x = ball.reference
    weight = window.squared_mean(torch.ones_like(delta[:1, :1]))
    first = window.squared_mean(delta) - k * window.squared_mean(x)
    second = (
        window.squared_mean(delta * delta) - 2 * k * window.squared_mean(delta * x) + k * k * window.squared_mean(x * x)
    )
    return (second - 2 * mean_v * first + mean_v * mean_v * weight).clamp_min(0)


def _crowd(ball: SSIMBall, violated: Tensor) -> Tensor:
    """How many violated windows share a window's pixels, weighted by their taps and at least 1."""
    window = ball.window
    height, width = (int(side) for side in ball.reference.shape[-2:])
    flags = violated.to(ball.reference.dtype)
    return (
        window.mean(window.adjoint(flags, height, width))
        .div(window.squared_mean(torch.ones_like(ball.reference[:1, :1])))
        .clamp_min(1)
    )
