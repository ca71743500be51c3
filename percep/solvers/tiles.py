"""Non-overlapping windows: the program separates, and each tile is solved by one-dimensional searches."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.ellipsoid import MeanBall
from percep.errors import InputError
from percep.program import FloorMultipliers, Multipliers, Program, Solution, paired
from percep.solvers.feasibility import restore_feasibility, scale_into_ball
from percep.solvers.incumbents import Incumbents
from percep.solvers.lagrangian import best_uncovered, feasible_multipliers
from percep.solvers.roots import bracketed, least_multiplier
from percep.solvers.solver import Solver
from percep.windows import Window

_TINY = 1e-300


@dataclass(frozen=True)
class Tiles(Solver):
    """Solves tile by tile: exactly where windows do not overlap, as a fast approximation where they do.

    With `padding="valid"` and `stride == size` the answer is exact up to rounding, pixel range included: given the
    multiplier of a tile's variance and an offset common to its pixels, each pixel is a clipped linear function. The
    offset follows from the constraint on the mean, the multiplier from that on the variance, and the multiplier of
    the mean ball, if there is one, from its budget. Where the pixel range is inactive all but the last have a closed
    form.

    For windows that overlap, uniform tiles of the same second moment are solved in their place and feasibility in the
    true ball is restored: the paper's fast approximation. The bound is then that of a dual feasible point, rigorous
    but coarse.

    Raises:
        InputError: rho > 0 with unequal weights, where tiles do not separate into means and deviations;
            overlapping windows with a floor given per window.
    """

    def answer(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        """See `Solver.answer`. A warm start is ignored."""
        window = program.ball.window
        if bool((program.rho > 0).any()) and len(set(window.taps)) > 1 and not window.overlaps:
            raise InputError("Tiles needs a uniform window where proximal > 0")
        incumbents = Incumbents(program)
        images = torch.arange(program.ball.batch, device=program.linear.device)
        ball = _tiled(program.ball) if window.overlaps else program.ball
        delta, multipliers = _Tiling(program, ball).solve()
        if window.overlaps:
            inside = torch.where(ball.view.covered, delta, 0.0)
            restored = restore_feasibility(program.ball, inside)
            incumbents.update(images, program, restored, inside, feasible_multipliers(program), 1)
        else:
            incumbents.update(images, program, scale_into_ball(program.ball, delta), delta, multipliers, 1)
        return incumbents.solution(tol)


class _Curvature(NamedTuple):
    """Second derivatives of a tile's objective, `(B, C, h, w, 1)`: in its mean, and in its pixels about the mean."""

    mean: Tensor
    variance: Tensor


class _Tiling:
    """The pixels of every tile side by side: tensors `(B, C, h, w, n)` with n the pixels of a tile."""

    def __init__(self, program: Program, ball: SSIMBall) -> None:
        self.ball, self.program = ball, program
        self.size = ball.window.size
        taps = torch.tensor(ball.window.taps, dtype=torch.float64, device=program.linear.device)
        self.weights = torch.outer(taps, taps).flatten()
        anchor = torch.zeros_like(program.linear) if program.anchor is None else program.anchor
        rho = program.rho.double()
        self.linear_over_weight = self._gather(program.linear.double() + rho * anchor.double()) / self.weights
        # With rho > 0 all weights are equal.
        self.rho_over_weight = (
            (rho / self.weights[0])[..., None] if bool((rho > 0).any()) else torch.zeros_like(rho)[..., None]
        )
        self.x = self._gather(ball.reference.double())
        self.low, self.high = -self.x, 1 - self.x

    def solve(self) -> tuple[Tensor, Multipliers]:
        """Perturbation `(B, C, H, W)` and multipliers, in the program's dtype."""
        ellipsoid = self.ball.double.ellipsoid
        mean = None if ellipsoid is None else self._mean_multiplier(ellipsoid)
        pixels, floor = self._solve_given_mean(mean)
        multipliers = Multipliers(floor, mean).map(lambda values: values.to(self.program.linear.dtype))
        return self._scatter(pixels), multipliers

    def _mean_multiplier(self, ellipsoid: MeanBall) -> Tensor:
        """The multiplier of the mean ball, `(B, 1, 1, 1)`."""

        def excess(multiplier: Tensor) -> Tensor:
            mean, variance = self._moments(self._solve_given_mean(multiplier)[0])
            return _excess(ellipsoid.squared_norm(mean, variance), ellipsoid.budget)

        mean, variance = self._moments(self.linear_over_weight)
        squared = ellipsoid.squared_dual_norm(mean, variance)
        # Exact where no other constraint is active and rho = 0.
        return least_multiplier(excess, (squared / ellipsoid.budget).sqrt() / 2)

    def _solve_given_mean(self, multiplier: Tensor | None) -> tuple[Tensor, FloorMultipliers | None]:
        """Pixels and the floor's multipliers, exact for a given multiplier of the mean ball."""
        ball = self.ball.double
        curvature = self._curvature(multiplier, ball.ellipsoid)
        if (sets := ball.floor_sets) is None:
            zeros = torch.zeros_like(curvature.variance)
            pixels, _ = self._pixels(zeros, zeros, curvature, None)
            return pixels, None
        k = sets.contrast.k.expand(self.ball.map_shape)[..., None]
        radius = sets.contrast.radius[..., None]
        _, variance = self._moments(self.linear_over_weight - curvature.variance * k * self.x)
        # The curvature at which a tile's deviation about k x is the radius; exact without the pixel range.
        required = variance.sqrt()[..., None] / radius
        contrast = ((required - curvature.variance) / 2).clamp_min(0)
        mean_ball = (sets.luminance.k * ball.reference_mean, sets.luminance.radius)
        pixels, luminance = self._pixels(contrast, k, curvature, mean_ball)
        if bool(((pixels <= self.low) | (pixels >= self.high)).any()):

            def excess(multiplier: Tensor) -> Tensor:
                pixels, _ = self._pixels(multiplier, k, curvature, mean_ball)
                return _excess(self._moments(pixels - k * self.x)[1][..., None], radius**2)

            # The pixel range may make a constraint active that would be inactive without it.
            contrast = least_multiplier(excess, torch.maximum(contrast, 1e-3 * required))
            pixels, luminance = self._pixels(contrast, k, curvature, mean_ball)
        return pixels, FloorMultipliers(luminance, contrast.squeeze(-1))

    def _curvature(self, multiplier: Tensor | None, ellipsoid: MeanBall | None) -> _Curvature:
        """That of rho and of the mean ball at its multiplier."""
        mean = variance = self.rho_over_weight.expand(*self.linear_over_weight.shape[:4], 1)
        if (pair := paired(ellipsoid, multiplier)) is not None:
            weights, factor = pair
            mean = mean + 2 * (factor * weights.luminance)[..., None]
            variance = variance + 2 * (factor * weights.contrast)[..., None]
        return _Curvature(mean, variance)

    def _pixels(
        self, contrast: Tensor, k: Tensor, curvature: _Curvature, mean_ball: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """The best pixels at a multiplier of each tile's variance, and the multiplier of its mean's ball.

        With l = `contrast`, h = `linear_over_weight`, c and c1 the curvatures of variance and mean, stationarity in a
        pixel is `d_j = clip((h_j + 2 l k x_j + q) / (c + 2 l))`, where the offset q is what is common to a tile,
        `q = (c + 2 l - c1) m - 2 l k m_x - 2 l1 (m - k1 m_x)` with m the tile's mean and l1 the multiplier of its
        ball: m grows with q, so q is the root of the difference, within the interval that the ball allows m.
        """
        denominator = curvature.variance + 2 * contrast
        safe = torch.where(denominator > 0, denominator, 1.0)
        numerator = self.linear_over_weight + 2 * contrast * k * self.x
        mean_x, _ = self._moments(self.x)
        constant = 2 * contrast.squeeze(-1) * k.squeeze(-1) * mean_x
        slope = (denominator - curvature.mean).squeeze(-1)
        min_mean, max_mean = self._mean_interval(mean_ball)

        def pixels(offset: Tensor) -> Tensor:
            shifted = numerator + offset[..., None]
            vertex = torch.where(shifted > 0, self.high, self.low)
            inner = torch.where(denominator > 0, shifted / safe, vertex)
            return torch.minimum(torch.maximum(inner, self.low), self.high)

        def difference(offset: Tensor) -> Tensor:
            mean = (pixels(offset) * self.weights).sum(-1)
            stationarity = offset - slope * mean + constant
            return torch.maximum(mean - max_mean, torch.minimum(mean - min_mean, stationarity))

        low, high = bracketed(
            difference,
            (self.low * safe - numerator).amin(-1) - 1e-9,
            (self.high * safe - numerator).amax(-1) + 1e-9,
        )
        # The two ends straddle the root; where the mean jumps between them their midpoint lies in the mean's ball.
        best = (pixels(low) + pixels(high)) / 2
        mean, _ = self._moments(best)
        if mean_ball is None:
            return best, torch.zeros_like(mean)
        centre, radius = mean_ball
        # What stationarity leaves over is `2 l1 (m - k1 m_x)`; it is 0 well inside the ball.
        gradient = slope * mean - constant - (low + high) / 2
        distance = mean - centre
        at_boundary = distance.abs() > 0.5 * radius
        doubled = torch.where(at_boundary, gradient / torch.where(distance == 0, 1.0, distance), 0.0)
        return best, doubled.clamp_min(0) / 2

    def _mean_interval(self, mean_ball: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """The least and the greatest mean of a tile in its ball, given by centre and radius."""
        if mean_ball is None:
            shape, device = self.linear_over_weight.shape[:4], self.linear_over_weight.device
            unbounded = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
            return -unbounded, unbounded
        centre, radius = mean_ball
        return centre - radius, centre + radius

    def _moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean and variance of each tile, `(B, C, h, w)`."""
        mean = (pixels * self.weights).sum(-1)
        deviation = pixels - mean[..., None]
        return mean, (deviation * deviation * self.weights).sum(-1)

    def _gather(self, image: Tensor) -> Tensor:
        rows = image.unfold(2, self.size, self.size).unfold(3, self.size, self.size)
        return rows.reshape(*rows.shape[:4], -1)

    def _scatter(self, pixels: Tensor) -> Tensor:
        batch, channels, rows, columns, _ = pixels.shape
        image = best_uncovered(self.program)
        square = pixels.reshape(batch, channels, rows, columns, self.size, self.size).transpose(3, 4)
        image[..., : rows * self.size, : columns * self.size] = square.reshape(
            batch, channels, rows * self.size, columns * self.size
        ).to(image.dtype)
        return image


def _excess(spent: Tensor, budget: Tensor) -> Tensor:
    """Positive above the budget, and close to linear in the multiplier of a budget on a quadratic form."""
    return 1 - (budget / spent.clamp_min(_TINY)).sqrt()


def _tiled(ball: SSIMBall) -> SSIMBall:
    """The ball of tiles from the image's upper left corner: uniform windows with the second moment of the ball's."""
    if ball.floor is not None and any(level.shape[1:] != (1, 1, 1) for level in ball.floor_factors):
        raise InputError("Tiles approximates overlapping windows only where the floor is the same in all of them")
    size = max(2, round(math.sqrt(12 * ball.window.second_moment + 1)))
    floor = None if ball.floor is None else ball.floor.flatten().expand(ball.batch)
    mean = None if ball.mean is None else ball.mean.flatten().expand(ball.batch)
    window = Window.uniform(size, stride=size, padding="valid")
    return SSIMBall(ball.reference, floor, mean, window, luminance_share=ball.luminance_share)
