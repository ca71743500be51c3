"""The reference for the layer's derivatives: a fixed-point iteration that autograd unrolls."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.errors import InputError
from percep.precision import without_autocast
from percep.program import FloorMultipliers, Multipliers, Program, Solution, paired
from percep.solvers.feasibility import scale_into_ball
from percep.solvers.incumbents import Incumbents
from percep.ssim import shifted_variance

_ITERATIONS = 2000
_MAX_PIXELS = 256
_EXPONENT = 0.8


def unrolled(
    program: Program, ball: SSIMBall, linear: Tensor, anchor: Tensor | None, rho: Tensor, tol: float
) -> Solution:
    """Solves small programs by operations that autograd records, all of them.

    `l <- l (|K d - c|^2 / R^2)^0.8` around dense solves of `M(l) d = b(l)`, the pixel range being one more ball per
    pixel, `(d - (1/2 - x))^2 <= 1/4`: what `solvers.Dual` accelerates, in its plainest form. It shares neither the
    solver nor the optimality conditions with the implicit mode, and takes `2000` copies of a dense matrix.

    Args:
        program: the program without a graph, for the certificate.
        ball: its `SSIMBall.attached`.
        linear, anchor, rho: in the graph, rho `(B, 1, 1, 1)`.
        tol: gap at which an image is `solved`.

    Raises:
        InputError: images of more than 256 values, or data that are not finite.
    """
    pixels = linear.shape[1:].numel()
    if pixels > _MAX_PIXELS or not bool(program.finite.all()):
        raise InputError(f"mode 'unrolled' needs finite images of at most {_MAX_PIXELS} values, got {pixels}")
    with without_autocast():
        delta, multipliers = _iterate(ball, linear, anchor, rho)
    with torch.no_grad():
        incumbents = Incumbents(program)
        inside = scale_into_ball(program.ball, delta)
        incumbents.update(
            torch.arange(len(linear), device=linear.device), program, inside, delta, multipliers, _ITERATIONS
        )
        solution = incumbents.solution(tol)
        factor = (inside * delta).flatten(1).sum(1) / (delta * delta).flatten(1).sum(1).clamp_min(1e-300)
    # Rounded into the ball by a factor of nearly 1, which is no part of the derivative.
    attached = delta * factor.reshape(-1, 1, 1, 1)
    return replace(solution, delta=attached + (inside - attached).detach())


def _iterate(ball: SSIMBall, linear: Tensor, anchor: Tensor | None, rho: Tensor) -> tuple[Tensor, Multipliers]:
    """d, `(B, C, H, W)`, and the multipliers after all iterations, in the graph."""
    dense = _DenseProgram(ball, linear if anchor is None else linear + rho * anchor, rho)
    size = dense.linear_term.detach().abs().amax(1, keepdim=True)
    floor = None
    if ball.floor_sets is not None:
        ones = torch.ones_like(dense.mean_x)
        floor = FloorMultipliers(ones * size, ones * size)
    multipliers = _DenseMultipliers(floor, size.clone(), torch.ones_like(dense.x) * size)
    delta = torch.zeros_like(dense.x)
    for _ in range(_ITERATIONS):
        delta = dense.maximiser(multipliers)
        multipliers = dense.updated(multipliers, delta)
    if multipliers.floor is not None:
        floor = FloorMultipliers(*(values.reshape(ball.map_shape) for values in multipliers.floor))
    mean = None if ball.ellipsoid is None else multipliers.mean.reshape(-1, 1, 1, 1)
    return delta.reshape(linear.shape), Multipliers(floor, mean)


class _DenseMultipliers(NamedTuple):
    """Of the floor's sets, `(B, windows)`, of the ellipsoid, `(B, 1)`, and of the pixels' balls, `(B, pixels)`."""

    floor: FloorMultipliers | None
    mean: Tensor
    pixels: Tensor


class _Balls(NamedTuple):
    """One of the floor's two sets: the k of every window's centre and its squared radius, `(B, windows)`."""

    k: Tensor
    squared_radius: Tensor


class _Ellipsoid(NamedTuple):
    """The mean's: weights `(B, windows)` and what they may add up to, `(B, 1)`."""

    luminance: Tensor
    contrast: Tensor
    budget: Tensor


class _DenseProgram:
    """A program in the graph, its images `(B, pixels)`, its maps `(B, windows)` and its local mean a dense matrix."""

    def __init__(self, ball: SSIMBall, linear_term: Tensor, rho: Tensor) -> None:
        self.ball = ball
        self.sets = self.ellipsoid = None
        if (sets := ball.floor_sets) is not None:
            self.sets = tuple(
                _Balls(self._map(each.k), each.radius.flatten(1) ** 2) for each in (sets.luminance, sets.contrast)
            )
        if (mean := ball.ellipsoid) is not None:
            self.ellipsoid = _Ellipsoid(
                self._map(mean.luminance), self._map(mean.contrast), mean.budget.flatten()[:, None]
            )
        self.linear_term, self.rho = linear_term.flatten(1), rho.reshape(-1, 1)
        shape = linear_term.shape[1:]
        identity = torch.eye(shape.numel(), dtype=linear_term.dtype, device=linear_term.device)
        self.average = ball.window.mean(identity.reshape(-1, *shape)).reshape(shape.numel(), -1).mT
        self.x = ball.reference.flatten(1)
        self.centre = 0.5 - self.x
        self.mean_x, self.var_x = ball.reference_mean.flatten(1), ball.reference_variance.flatten(1)

    def maximiser(self, multipliers: _DenseMultipliers) -> Tensor:
        """The d at which the Lagrangian is stationary."""
        of_mean = of_variance = torch.zeros_like(self.mean_x)
        rhs = self.linear_term + 2 * multipliers.pixels * self.centre
        if (pair := paired(self.sets, multipliers.floor)) is not None:
            (luminance, contrast), (of_mean, of_variance) = pair
            mean_term, variance_term = luminance.k * of_mean, contrast.k * of_variance
            rhs = rhs + 2 * self.x * (variance_term @ self.average)
            rhs = rhs + 2 * ((mean_term - variance_term) * self.mean_x) @ self.average
        if self.ellipsoid is not None:
            of_mean = of_mean + multipliers.mean * self.ellipsoid.luminance
            of_variance = of_variance + multipliers.mean * self.ellipsoid.contrast
        matrix = 2 * self.average.mT @ ((of_mean - of_variance)[:, :, None] * self.average)
        matrix = matrix + torch.diag_embed(2 * of_variance @ self.average + self.rho + 2 * multipliers.pixels)
        maximiser: Tensor = torch.linalg.solve(matrix, rhs)
        return maximiser

    def updated(self, multipliers: _DenseMultipliers, delta: Tensor) -> _DenseMultipliers:
        """The multipliers times a power of what d takes of each squared radius."""
        floor, of_mean, pixels = multipliers
        mean = delta @ self.average.mT
        variance = ((delta * delta) @ self.average.mT - mean**2).clamp_min(0)
        pixels = pixels * (4 * (delta - self.centre) ** 2) ** _EXPONENT
        if (pair := paired(self.sets, floor)) is not None:
            (luminance, contrast), floor = pair
            covariance = (delta * self.x) @ self.average.mT - mean * self.mean_x
            squared_mean = (mean - luminance.k * self.mean_x) ** 2
            shifted = shifted_variance(variance, covariance, contrast.k, self.var_x)
            floor = FloorMultipliers(
                floor.luminance * (squared_mean / luminance.squared_radius) ** _EXPONENT,
                floor.contrast * (shifted / contrast.squared_radius) ** _EXPONENT,
            )
        if (ellipsoid := self.ellipsoid) is not None:
            squared_norm = ellipsoid.luminance * mean**2 + ellipsoid.contrast * variance
            of_mean = of_mean * (squared_norm.sum(1, keepdim=True) / ellipsoid.budget) ** _EXPONENT
        return _DenseMultipliers(floor, of_mean, pixels)

    def _map(self, values: Tensor) -> Tensor:
        return values.expand(self.ball.map_shape).flatten(1)
