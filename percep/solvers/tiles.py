"""Non-overlapping windows: the program separates, and each tile has a closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from percep.errors import InputError
from percep.program import Multipliers, Program, Solution
from percep.solvers.answers import Answers
from percep.solvers.lagrangian import best_uncovered, per_image
from percep.solvers.recovery import restore
from percep.ssim import variance


@dataclass(frozen=True)
class Tiles:
    """Closed form per tile for `padding="valid"` and `stride == size`, pixel range apart.

    With `h = g / w + (rho / w) a` and `c = rho / w + 2 m e` (w a tap, m and e the multiplier and weight of the
    mean's ellipsoid), each tile's mean and deviation is `(h + 2 l k x) / (c + 2 l)` with
    `l = max(0, |h - c k x| / (2 R) - c / 2)`; m is found by bisection. Where that answer leaves the pixel range
    it is clipped and restored, and the gap says what this costs.

    Raises:
        InputError: windows that overlap, or rho > 0 with unequal weights (no closed form).
    """

    def solve(self, program: Program, tol: float, warm_start: Solution | None = None) -> Solution:
        """See `percep.solve`. There is nothing to warm-start."""
        window = program.ball.window
        if window.overlaps:
            raise InputError("Tiles needs windows that do not overlap: padding='valid' and stride == size")
        if bool((program.rho > 0).any()) and len(set(window.taps)) > 1:
            raise InputError("Tiles needs a uniform window where proximal > 0")
        answers = Answers(program)
        tiles = _TileForms(program)
        images = torch.arange(program.ball.batch, device=program.linear.device)
        price = tiles.price_of_mean()
        delta, multipliers = tiles.answer(price)
        answers.offer(images, program, restore(program.ball, delta), delta, multipliers, 1)
        return answers.solution(tol)


class _TileForms:
    def __init__(self, program: Program) -> None:
        self.program = program
        ball, window = program.ball, program.ball.window
        self.size = (int(ball.reference.shape[-2]), int(ball.reference.shape[-1]))
        cover = window.adjoint(ball.reference.new_ones(1, 1, *ball.map_shape[2:]), *self.size)
        self.covered = cover > 0
        self.weight = torch.where(self.covered, cover, 1.0)
        pull = program.linear
        if program.anchor is not None:
            pull = pull + program.rho * program.anchor
        self.pull = torch.where(self.covered, pull / self.weight, 0.0)
        self.mean_pull = window.mean(self.pull)
        self.curvature = program.rho * window.size**2

    def price_of_mean(self) -> Tensor | None:
        """The multiplier of the ellipsoid at which exactly its budget is spent, 0 where less is."""
        ellipsoid = self.program.ball.ellipsoid
        if ellipsoid is None:
            return None
        variance_pull = variance(self.program.ball.window, self.pull, self.mean_pull)
        squared = per_image(self.mean_pull**2 / ellipsoid.luminance + variance_pull / ellipsoid.contrast)
        # Without a floor and with rho = 0 this is the answer; otherwise it is an upper bound.
        high = (squared / ellipsoid.budget).sqrt() / 2
        low = torch.zeros_like(high)
        for _ in range(60):
            middle = (low + high) / 2
            over = self._spending(middle) > ellipsoid.budget
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        return high

    def _spending(self, price: Tensor) -> Tensor:
        ball, window = self.program.ball, self.program.ball.window
        assert ball.ellipsoid is not None
        delta, _ = self.answer(price)
        delta = torch.where(self.covered, delta, 0.0)
        mean_d = window.mean(delta)
        spread = variance(window, delta, mean_d)
        return per_image(ball.ellipsoid.luminance * mean_d**2 + ball.ellipsoid.contrast * spread)

    def answer(self, price: Tensor | None) -> tuple[Tensor, Multipliers]:
        """Perturbation and multipliers at a price of the mean, pixel range ignored on covered pixels."""
        ball, window, program = self.program.ball, self.program.ball.window, self.program
        mean_curvature = spread_curvature = self.curvature.expand(-1, 1, 1, 1)
        if price is not None:
            assert ball.ellipsoid is not None
            mean_curvature = mean_curvature + 2 * price * ball.ellipsoid.luminance
            spread_curvature = spread_curvature + 2 * price * ball.ellipsoid.contrast
        mean_top, spread_top = self.mean_pull, self.pull - self._fill(self.mean_pull)
        mean_bottom, spread_bottom = mean_curvature, spread_curvature
        luminance = contrast = None
        if ball.luminance is not None and ball.contrast is not None:
            mean_x = ball.reference_mean
            k1, k2 = ball.luminance.k, ball.contrast.k
            spread_x = ball.reference - self._fill(mean_x)
            distance = (self.mean_pull - mean_curvature * k1 * mean_x).abs()
            luminance = (distance / ball.luminance.radius - mean_curvature).clamp_min(0) / 2
            offset = spread_top - self._fill((spread_curvature * k2).expand(ball.map_shape)) * spread_x
            distance = variance(window, torch.where(self.covered, offset, 0.0)).sqrt()
            contrast = (distance / ball.contrast.radius - spread_curvature).clamp_min(0) / 2
            mean_top = mean_top + 2 * luminance * k1 * mean_x
            spread_top = spread_top + self._fill(2 * contrast * k2) * spread_x
            mean_bottom, spread_bottom = mean_bottom + 2 * luminance, spread_bottom + 2 * contrast
        tile_mean = _ratio(mean_top, mean_bottom)
        spread = spread_top * self._fill(_ratio(torch.ones_like(tile_mean), spread_bottom))
        outside = best_uncovered(program)
        delta = torch.where(self.covered, self._fill(tile_mean) + spread, outside)
        return delta, Multipliers(luminance, contrast, price)

    def _fill(self, values: Tensor) -> Tensor:
        """Each tile's value on its pixels, 0 outside."""
        return self.program.ball.window.adjoint(values, *self.size) / self.weight


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom > 0, top / torch.where(bottom > 0, bottom, 1.0), 0.0)
