"""From a nearly feasible perturbation to one strictly inside the ball, at a small loss of objective."""

import torch
from torch import Tensor

from percep import kernels
from percep.ball import SSIMBall
from percep.ball.floor import FloorSets
from percep.kernels.arguments import FloorBalls, WindowExcesses
from percep.kernels.launcher import CPULauncher
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
            projected = projections.project(delta)
            if projected is None:
                break
            delta = projected
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
        luminance, contrast = sets.luminance, sets.contrast
        moments = view.reference_mean, view.reference_variance
        self.balls = FloorBalls(view.reference, moments, (luminance.k, contrast.k), (luminance.radius, contrast.radius))

    def project(self, delta: Tensor) -> Tensor | None:
        """`delta` after one round, within the pixel range; None if no window exceeds its squared radius by more than
        the tightening."""
        view, k = self.view, self.sets.contrast.k
        launch = None
        if self.sets.contrast.uniform:
            launch = kernels.cpu_launcher(delta, view.window, self.balls.reference, *self.balls.radii)
        found = self._excesses(delta) if launch is None else self._excesses_by(launch, delta)
        # An image without such windows is not changed, so that images do not influence each other.
        if not bool(found.exceeded.any()):
            return None
        if self.rounds % _NORM_EVERY == 0:
            self.norm = self._squared_gradient(delta, view.mean(delta))
        self.rounds += 1
        norm = self.norm * self._overlap(found.contrast > 0)
        amount = found.contrast / norm.clamp_min_(torch.finfo(delta.dtype).tiny * 1e8)
        of_mean = amount * found.shifted_mean
        if bool((too_bright := found.luminance != 0).any()):
            of_mean = of_mean - found.luminance / (2 * self.weight * self._overlap(too_bright))
        adjoint, of_mean = view.adjoint(amount), view.adjoint(of_mean)
        if launch is not None:
            projected = launch.project(delta, adjoint, of_mean, self.balls, view.window)
        else:
            of_reference = k * adjoint if self.sets.contrast.uniform else view.adjoint(k * amount)
            step = 2 * (delta * adjoint - view.reference * of_reference - of_mean)
            projected = (delta - step).clamp_(-view.reference, 1 - view.reference)
        return projected if bool(found.exceeded.all()) else torch.where(found.exceeded, projected, delta)

    def _excesses_by(self, launch: CPULauncher, delta: Tensor) -> WindowExcesses:
        """`_excesses` by a kernel."""
        return launch.window_excesses(delta, self.balls, self.tightening, self.view.window)

    def _excesses(self, delta: Tensor) -> WindowExcesses:
        k, radius = self.sets.contrast.k, self.sets.luminance.radius
        moments = self.view.moments(delta)
        var_v, squared = moments.variance_from(k), self.sets.contrast.radius**2
        shift, allowed = moments.mean_from(self.sets.luminance.k), 1 + self.tightening
        exceeded = (var_v > allowed * squared) | (shift**2 > allowed * radius**2)
        target = (1 - self.tightening) * radius
        return WindowExcesses(
            torch.where(shift.abs() > radius, shift - shift.clamp(-target, target), 0.0),
            torch.where(var_v > squared, var_v - (1 - self.tightening) * squared, 0.0),
            moments.mean_from(k),
            exceeded.flatten(1).any(1).reshape(-1, 1, 1, 1),
        )

    def _squared_gradient(self, values: Tensor, mean: Tensor) -> Tensor:
        """`4 sum_j w_j^2 (v_j - mean v)^2` per window."""
        first, second = self.view.squared_mean(values), self.view.squared_mean(values * values)
        return 4 * (second - 2 * mean * first + mean * mean * self.weight).clamp_min_(0)

    def _overlap(self, violated: Tensor) -> Tensor:
        """The number of violated windows that overlap a window, weighted by their taps, at least 1."""
        return self.view.mean(self.view.adjoint(violated.to(self.weight.dtype))).div_(self.weight).clamp_min_(1)
