"""Non-overlapping windows: the program separates, and each tile is solved by one-dimensional searches."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.errors import InputError
from percep.program import FloorMultipliers, Multipliers, Program, Solution
from percep.solvers.feasibility import restore_feasibility, scale_into_ball
from percep.solvers.incumbents import Incumbents
from percep.solvers.lagrangian import best_uncovered, feasible_multipliers
from percep.solvers.roots import bracketed, least_price
from percep.solvers.solver import Solver
from percep.windows import Window

_TINY = 1e-300


@dataclass(frozen=True)
class Tiles(Solver):
    """Solves tile by tile: exactly where windows do not overlap, as a fast approximation where they do.

    With `padding="valid"` and `stride == size` the answer is exact up to rounding, pixel range included: at a
    price of a tile's variance and an offset common to its pixels, each pixel is a clipped linear function, the
    offset follows from the mean's constraint and the price from the variance's, and the price of the mean ball,
    if there is one, from its budget. Where the pixel range is inactive all but the last have a closed form.

    For windows that overlap, uniform tiles of the same spread are solved in their place and the answer is restored
    into the true ball: the paper's fast approximation. The bound is then that of a dual feasible point, rigorous
    but coarse.

    Raises:
        InputError: rho > 0 with unequal weights, where tiles do not separate into means and deviations;
            overlapping windows with a floor given per window.
    """

    def answer(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        """See `Solver.answer`. There is nothing to warm-start."""
        window = program.ball.window
        if bool((program.rho > 0).any()) and len(set(window.taps)) > 1 and not window.overlaps:
            raise InputError("Tiles needs a uniform window where proximal > 0")
        incumbents = Incumbents(program)
        images = torch.arange(program.ball.batch, device=program.linear.device)
        ball = _tiled(program.ball) if window.overlaps else program.ball
        delta, multipliers = _Tiling(program, ball).solve()
        if window.overlaps:
            inside = torch.where(_covered(ball), delta, 0.0)
            prices = feasible_multipliers(program)
            incumbents.update(images, program, restore_feasibility(program.ball, inside), inside, prices, 1)
        else:
            incumbents.update(images, program, scale_into_ball(program.ball, delta), delta, multipliers, 1)
        return incumbents.solution(tol)


class _Tiling:
    """The pixels of every tile side by side: tensors `(B, C, h, w, n)` with n the pixels of a tile."""

    def __init__(self, program: Program, ball: SSIMBall) -> None:
        self.ball, self.program = ball, program
        self.size = ball.window.size
        taps = torch.tensor(ball.window.taps, dtype=torch.float64, device=program.linear.device)
        self.weights = torch.outer(taps, taps).flatten()
        anchor = torch.zeros_like(program.linear) if program.anchor is None else program.anchor
        rho = program.rho.double()
        self.linear_term = self._gather(program.linear.double() + rho * anchor.double()) / self.weights
        self.curvature = (
            (rho / self.weights[0])[..., None] if bool((rho > 0).any()) else torch.zeros_like(rho)[..., None]
        )
        self.x = self._gather(ball.reference.double())
        self.low, self.high = -self.x, 1 - self.x

    def solve(self) -> tuple[Tensor, Multipliers]:
        """Perturbation `(B, C, H, W)` and multipliers, in the program's dtype."""
        ellipsoid = self.ball.double.ellipsoid
        price = None
        if ellipsoid is not None:

            def over(price: Tensor) -> Tensor:
                mean, spread = self._moments(self._answer(price)[0])
                return _excess(ellipsoid.squared_norm(mean, spread), ellipsoid.budget)

            mean, spread = self._moments(self.linear_term)
            squared = ellipsoid.squared_dual_norm(mean, spread)
            # Exact where no other constraint is active and rho = 0.
            price = least_price(over, (squared / ellipsoid.budget).sqrt() / 2)
        delta, floor = self._answer(price)
        multipliers = Multipliers(floor, price).map(lambda values: values.to(self.program.linear.dtype))
        return self._scatter(delta), multipliers

    def _answer(self, price: Tensor | None) -> tuple[Tensor, FloorMultipliers | None]:
        """Pixels and the floor's multipliers at a price of the mean ball, exact for that price."""
        ball = self.ball.double
        mean_bend = spread_bend = self.curvature.expand(*self.linear_term.shape[:4], 1)
        if price is not None:
            assert ball.ellipsoid is not None
            mean_bend = mean_bend + 2 * (price * ball.ellipsoid.luminance)[..., None]
            spread_bend = spread_bend + 2 * (price * ball.ellipsoid.contrast)[..., None]
        if (sets := ball.floor_sets) is None:
            none = torch.zeros_like(spread_bend)
            pixels, _ = self._pixels(none, none, mean_bend, spread_bend, None)
            return pixels, None
        k = sets.contrast.k.expand(self.ball.map_shape)[..., None]
        radius = sets.contrast.radius[..., None]
        offset = self.linear_term - spread_bend * k * self.x
        _, spread = self._moments(offset)
        # Exact without the pixel range.
        needed = spread.sqrt()[..., None] / radius
        closed = ((needed - spread_bend) / 2).clamp_min(0)
        mean_ball = (sets.luminance.k * ball.reference_mean, sets.luminance.radius)
        high = closed
        pixels, shift = self._pixels(closed, k, mean_bend, spread_bend, mean_ball)
        if bool(((pixels <= self.low) | (pixels >= self.high)).any()):

            def over(price: Tensor) -> Tensor:
                pixels, _ = self._pixels(price, k, mean_bend, spread_bend, mean_ball)
                return _excess(self._moments(pixels - k * self.x)[1][..., None], radius**2)

            # The pixel range may ask for a price where there would be none.
            high = least_price(over, torch.maximum(closed, 1e-3 * needed))
            pixels, shift = self._pixels(high, k, mean_bend, spread_bend, mean_ball)
        return pixels, FloorMultipliers(shift, high.squeeze(-1))

    def _pixels(
        self,
        contrast: Tensor,
        k: Tensor,
        mean_bend: Tensor,
        spread_bend: Tensor,
        mean_ball: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """The best pixels at a price of each tile's variance, and the price of its mean's ball.

        Stationarity in a pixel is `d_j = clip((h_j + 2 l k x_j + q) / (c + 2 l))`, where the offset q gathers what
        is common to a tile, `q = (c + 2 l - c1) m - 2 l k m_x - 2 l1 (m - k1 m_x)` with m the tile's mean: m grows
        with q, so q is the root of the difference, within the interval of the mean's ball.
        """
        bottom = spread_bend + 2 * contrast
        safe = torch.where(bottom > 0, bottom, 1.0)
        top = self.linear_term + 2 * contrast * k * self.x
        mean_x, _ = self._moments(self.x)
        common = 2 * contrast.squeeze(-1) * k.squeeze(-1) * mean_x
        slope = (bottom - mean_bend).squeeze(-1)
        least, most = self._means_allowed(mean_ball)

        def pixels(shift: Tensor) -> Tensor:
            raised = top + shift[..., None]
            vertex = torch.where(raised > 0, self.high, self.low)
            inner = torch.where(bottom > 0, raised / safe, vertex)
            return torch.minimum(torch.maximum(inner, self.low), self.high)

        low = (self.low * safe - top).amin(-1) - 1e-9
        high = (self.high * safe - top).amax(-1) + 1e-9

        def beyond(shift: Tensor) -> Tensor:
            mean = (pixels(shift) * self.weights).sum(-1)
            return torch.maximum(mean - most, torch.minimum(mean - least, shift - slope * mean + common))

        low, high = bracketed(beyond, low, high)
        # The two ends straddle the answer; where it is an interval they are mixed to land in the mean's ball.
        first, second = pixels(low), pixels(high)
        found = (first + second) / 2
        mean, _ = self._moments(found)
        if mean_ball is None:
            return found, torch.zeros_like(mean)
        centre, radius = mean_ball
        push = slope * mean - common - (low + high) / 2
        distance = mean - centre
        outward = torch.where(distance.abs() > 0.5 * radius, push / torch.where(distance == 0, 1.0, distance), 0.0)
        return found, outward.clamp_min(0) / 2

    def _means_allowed(self, mean_ball: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        if mean_ball is None:
            unbounded = torch.full(
                self.linear_term.shape[:4], torch.inf, dtype=torch.float64, device=self.linear_term.device
            )
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
    """Positive above the budget, and close to linear in the price that a quadratic form is kept in budget by."""
    return 1 - (budget / spent.clamp_min(_TINY)).sqrt()


def _tiled(ball: SSIMBall) -> SSIMBall:
    """The ball of tiles from the image's upper left corner: uniform windows with the spread of the ball's."""
    if ball.floor is not None and ball.floor.shape[1:] != (1, 1, 1):
        raise InputError("Tiles approximates overlapping windows only where the floor is the same in all of them")
    size = max(2, round(math.sqrt(12 * ball.window.second_moment + 1)))
    floor = None if ball.floor is None else ball.floor.flatten().expand(ball.batch)
    mean = None if ball.mean is None else ball.mean.flatten().expand(ball.batch)
    window = Window.uniform(size, stride=size, padding="valid")
    return SSIMBall(ball.reference, floor, mean, window, luminance_share=ball.luminance_share)


def _covered(ball: SSIMBall) -> Tensor:
    return ball.view.coverage > 0
