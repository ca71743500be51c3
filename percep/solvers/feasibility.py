"""From a nearly feasible perturbation to one strictly inside the ball, at a small loss of objective."""

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.floor import FloorSets
from percep.ssim import View

_NORM_EVERY = 4


def restore_feasibility(ball: SSIMBall, delta: Tensor, tightening: float = 1e-4, rounds: int = 60) -> Tensor:
    """A perturbation strictly inside the ball's convex set, near `delta` `(B, C, H, W)`, in its dtype.

    First the floor's violated windows are repaired locally: simultaneous projections onto the linearised
    constraints, with squared radii smaller by the share `tightening`, each divided by the number of violated
    windows that overlap it, until no squared radius is exceeded by more than that share, or for `rounds` rounds. The
    remaining violation is removed by one scaling per image, in float64 and in closed form. Only that last step acts on
    whole images; the first changes only the pixels of violated windows.
    """
    delta = delta.clamp(ball.lowest, ball.highest)
    if ball.floor_sets is not None:
        projections = _WindowProjections(ball.view, ball.floor_sets, tightening)
        for _ in range(rounds):
            step = projections.step(delta)
            if step is None:
                break
            delta = (delta - step).clamp(ball.lowest, ball.highest)
    return scale_into_ball(ball, delta)


def scale_into_ball(ball: SSIMBall, delta: Tensor) -> Tensor:
    """`delta` clipped to the pixel range and scaled, by at most 1, until it is inside as rounded to its dtype."""
    spacing = torch.finfo(delta.dtype).eps if delta.dtype != torch.float64 else 0.0
    inside = delta.clamp(ball.lowest, ball.highest)
    factor = ball.scale(inside)
    factor = torch.where(factor < 1, factor * (1 - 4 * spacing), factor)
    for _ in range(60):
        result = (factor.to(delta.dtype)[:, None, None, None] * inside).clamp_(ball.lowest, ball.highest)
        allowed = ball.scale(result)
        if bool((allowed >= 1).all()):
            return result
        factor = torch.where(allowed < 1, factor * allowed * (1 - 4 * spacing), factor)
    return torch.where((allowed >= 1)[:, None, None, None], result, torch.zeros_like(result))


class _WindowProjections:
    """Averaged projections onto the violated windows of a floor.

    A window's projection onto the linearisation of `q = var(v) - R^2 <= 0`, v = d - k x, is `q / |grad q|^2` along
    `grad q = 2 w (v - mean v)`. The norms are recomputed every few rounds, with d in place of v: the projections
    change d little, and the deviation of k x is small against that of a d at the radius.
    """

    def __init__(self, view: View, sets: FloorSets, tightening: float) -> None:
        self.view, self.sets, self.tightening = view, sets, tightening
        self.weight = view.squared_mean(torch.ones_like(view.reference[:1, :1]))
        self.norm = self.weight
        self.rounds = 0

    def step(self, delta: Tensor) -> Tensor | None:
        """What to subtract from `delta` in one round; None if no window exceeds its squared radius by more than
        the tightening."""
        view, k, radius = self.view, self.sets.contrast.k, self.sets.luminance.radius
        moments = view.moments(delta)
        var_v, squared = moments.variance_from(k), self.sets.contrast.radius**2
        shift = moments.mean_from(self.sets.luminance.k)
        too_varied, too_bright = var_v > squared, shift.abs() > radius
        allowed = 1 + self.tightening
        exceeded = (var_v > allowed * squared) | (shift**2 > allowed * radius**2)
        # An image without such windows is not changed, so that images do not influence each other.
        pending = exceeded.flatten(1).any(1).reshape(-1, 1, 1, 1)
        if not bool(pending.any()):
            return None
        mean_v = moments.mean_from(k)
        if self.rounds % _NORM_EVERY == 0:
            self.norm = self._squared_gradient(delta, moments.mean)
        self.rounds += 1
        excess = torch.where(too_varied, var_v - (1 - self.tightening) * squared, 0.0)
        amount = excess / (self.norm * self._overlap(too_varied)).clamp_min(torch.finfo(delta.dtype).tiny * 1e8)
        adjoint = view.adjoint(amount)
        of_reference = k * adjoint if self.sets.contrast.uniform else view.adjoint(k * amount)
        step = 2 * (delta * adjoint - view.reference * of_reference - view.adjoint(amount * mean_v))
        if bool(too_bright.any()):
            target = (1 - self.tightening) * radius
            excess = torch.where(too_bright, shift - shift.clamp(-target, target), 0.0)
            step = step + view.adjoint(excess / (self.weight * self._overlap(too_bright)))
        return torch.where(pending, step, 0.0)

    def _squared_gradient(self, values: Tensor, mean: Tensor) -> Tensor:
        """`4 sum_j w_j^2 (v_j - mean v)^2` per window."""
        first, second = self.view.squared_mean(values), self.view.squared_mean(values * values)
        return 4 * (second - 2 * mean * first + mean * mean * self.weight).clamp_min_(0)

    def _overlap(self, violated: Tensor) -> Tensor:
        """The number of violated windows that overlap a window, weighted by their taps, at least 1."""
        return (self.view.mean(self.view.adjoint(violated.to(self.weight.dtype))) / self.weight).clamp_min_(1)
