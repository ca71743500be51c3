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
_MOST_PIXELS = 256
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
    if pixels > _MOST_PIXELS or not bool(program.finite.all()):
        raise InputError(f"mode 'unrolled' needs finite images of at most {_MOST_PIXELS} values, got {pixels}")
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
    batch, shape = len(linear), linear.shape[1:]
    pixels = shape.numel()
    identity = torch.eye(pixels, dtype=linear.dtype, device=linear.device)
    average = ball.window.mean(identity.reshape(-1, *shape)).reshape(pixels, -1).mT
    x, pull = ball.reference.flatten(1), linear if anchor is None else linear + rho * anchor
    pull, curvature, centre = pull.flatten(1), rho.reshape(-1, 1), 0.5 - x
    mean_x, var_x = ball.reference_mean.flatten(1), ball.reference_variance.flatten(1)
    size = pull.detach().abs().amax(1, keepdim=True)

    def maps(values: Tensor) -> Tensor:
        return values.expand(ball.map_shape).flatten(1)

    one, two = torch.ones_like(mean_x) * size, torch.ones_like(mean_x) * size
    total, ends = size.clone(), torch.ones_like(x) * size
    delta = torch.zeros_like(x)
    sets, ellipsoid = ball.floor_sets, ball.ellipsoid
    for _ in range(_ITERATIONS):
        p, q, right = torch.zeros_like(mean_x), torch.zeros_like(mean_x), pull + 2 * ends * centre
        if sets is not None:
            p, q = one, two
            first, second = maps(sets.luminance.k) * one, maps(sets.contrast.k) * two
            right = right + 2 * x * (second @ average) + 2 * ((first - second) * mean_x) @ average
        if ellipsoid is not None:
            p, q = p + total * maps(ellipsoid.luminance), q + total * maps(ellipsoid.contrast)
        matrix = 2 * average.mT @ ((p - q)[:, :, None] * average)
        matrix = matrix + torch.diag_embed(2 * q @ average + curvature + 2 * ends)
        delta = torch.linalg.solve(matrix, right)
        mean = delta @ average.mT
        spread = (delta * delta) @ average.mT - mean**2
        ends = ends * (4 * (delta - centre) ** 2) ** _EXPONENT
        if sets is not None:
            k = maps(sets.contrast.k)
            moved = shifted_variance(spread, (delta * x) @ average.mT - mean * mean_x, k, var_x)
            shift = mean - maps(sets.luminance.k) * mean_x
            one = one * (shift**2 / sets.luminance.radius.flatten(1) ** 2) ** _EXPONENT
            two = two * (moved / sets.contrast.radius.flatten(1) ** 2) ** _EXPONENT
        if ellipsoid is not None:
            spent = maps(ellipsoid.luminance) * mean**2 + maps(ellipsoid.contrast) * spread
            total = total * (spent.sum(1, keepdim=True) / ellipsoid.budget.flatten()[:, None]) ** _EXPONENT
    multipliers = Multipliers(
        None if sets is None else FloorMultipliers(one.reshape(ball.map_shape), two.reshape(ball.map_shape)),
        None if ellipsoid is None else total.reshape(-1, 1, 1, 1),
    )
    return delta.reshape(batch, *shape), multipliers
