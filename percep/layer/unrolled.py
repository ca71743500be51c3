"""The reference for the layer's derivatives: a fixed-point iteration that autograd unrolls."""

from dataclasses import replace

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.errors import InputError
from percep.precision import without_autocast
from percep.program import FloorMultipliers, Multipliers, Program, Solution
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
    batch, shape = len(linear), linear.shape[1:]
    pixels = shape.numel()
    identity = torch.eye(pixels, dtype=linear.dtype, device=linear.device)
    average = ball.window.mean(identity.reshape(-1, *shape)).reshape(pixels, -1).mT
    linear_term = (linear if anchor is None else linear + rho * anchor).flatten(1)
    x, curvature = ball.reference.flatten(1), rho.reshape(-1, 1)
    centre = 0.5 - x
    mean_x, var_x = ball.reference_mean.flatten(1), ball.reference_variance.flatten(1)
    start = linear_term.detach().abs().amax(1, keepdim=True)

    def per_window(values: Tensor) -> Tensor:
        return values.expand(ball.map_shape).flatten(1)

    luminance, contrast = torch.ones_like(mean_x) * start, torch.ones_like(mean_x) * start
    mean_multiplier, range_multiplier = start.clone(), torch.ones_like(x) * start
    delta = torch.zeros_like(x)
    sets, ellipsoid = ball.floor_sets, ball.ellipsoid
    for _ in range(_ITERATIONS):
        # What multiplies the squared mean and the variance of a window in the Lagrangian.
        of_mean, of_variance = torch.zeros_like(mean_x), torch.zeros_like(mean_x)
        rhs = linear_term + 2 * range_multiplier * centre
        if sets is not None:
            of_mean, of_variance = luminance, contrast
            shifted_mean = per_window(sets.luminance.k) * luminance
            shifted = per_window(sets.contrast.k) * contrast
            rhs = rhs + 2 * x * (shifted @ average) + 2 * ((shifted_mean - shifted) * mean_x) @ average
        if ellipsoid is not None:
            of_mean = of_mean + mean_multiplier * per_window(ellipsoid.luminance)
            of_variance = of_variance + mean_multiplier * per_window(ellipsoid.contrast)
        matrix = 2 * average.mT @ ((of_mean - of_variance)[:, :, None] * average)
        matrix = matrix + torch.diag_embed(2 * of_variance @ average + curvature + 2 * range_multiplier)
        delta = torch.linalg.solve(matrix, rhs)
        mean = delta @ average.mT
        variance = (delta * delta) @ average.mT - mean**2
        range_multiplier = range_multiplier * (4 * (delta - centre) ** 2) ** _EXPONENT
        if sets is not None:
            k = per_window(sets.contrast.k)
            covariance = (delta * x) @ average.mT - mean * mean_x
            distance_squared = shifted_variance(variance, covariance, k, var_x)
            mean_distance = mean - per_window(sets.luminance.k) * mean_x
            luminance = luminance * (mean_distance**2 / sets.luminance.radius.flatten(1) ** 2) ** _EXPONENT
            contrast = contrast * (distance_squared / sets.contrast.radius.flatten(1) ** 2) ** _EXPONENT
        if ellipsoid is not None:
            spent = per_window(ellipsoid.luminance) * mean**2 + per_window(ellipsoid.contrast) * variance
            share = spent.sum(1, keepdim=True) / ellipsoid.budget.flatten()[:, None]
            mean_multiplier = mean_multiplier * share**_EXPONENT
    multipliers = Multipliers(
        None if sets is None else FloorMultipliers(luminance.reshape(ball.map_shape), contrast.reshape(ball.map_shape)),
        None if ellipsoid is None else mean_multiplier.reshape(-1, 1, 1, 1),
    )
    return delta.reshape(batch, *shape), multipliers
