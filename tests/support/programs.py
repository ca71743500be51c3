"""Programs for the solvers, five references to a batch, the oracle's answers to them, and what any answer owes."""

from functools import cache

import torch
from torch import Tensor

from percep import Program, Solution, SSIMBall, Window, certify, solve
from percep.solvers import Oracle
from tests.support.references import KINDS, LEVELS, random_like, reference

# Channels, height and width of the references, and the window.
SHAPES = {
    "default": ((1, 12, 12), Window.gaussian()),
    "gaussian": ((1, 10, 10), Window.gaussian(7, 1.0)),
    "strided": ((1, 16, 16), Window.uniform(8, stride=4, padding="valid")),
    "tiles": ((1, 18, 18), Window.uniform(6, stride=6, padding="valid")),
    "oblong": ((3, 10, 13), Window.gaussian(4, stride=3)),
}
WINDOWS = ("gaussian", "strided", "tiles")
ROUNDING = 1e-12


@cache
def task(window: str, level: str, rho: float) -> Program:
    """In float64, of values that float32 holds too: one image per kind of reference, an anchor where rho > 0.

    `level` is one of `LEVELS`, or "map" for a floor that differs from window to window.
    """
    (channels, height, width), shape = SHAPES[window]
    images = [reference(kind, max(height, width), channels, seed) for seed, kind in enumerate(KINDS)]
    x = _as_single(torch.cat(images)[..., :height, :width])
    levels = LEVELS[level] if level != "map" else {"floor": floor_map(x, shape)}
    ball, linear = SSIMBall(x, window=shape, **levels), _as_single(random_like(x, 1))
    if rho == 0:
        return Program(ball, linear)
    return Program(ball, _as_single(0.1 * linear), rho, _as_single(0.01 * random_like(x, 2)))


@cache
def oracle(window: str, level: str, rho: float) -> Solution:
    """Clarabel's answers to `task`."""
    return solve(task(window, level, rho), Oracle(), tol=1e-4)


def in_single(program: Program) -> Program:
    """The program in float32."""
    ball = program.ball
    single = SSIMBall(ball.reference.float(), ball.floor, ball.mean, ball.window)
    anchor = None if program.anchor is None else program.anchor.float()
    return Program(single, program.linear.float(), program.rho.float().flatten(), anchor)


def floor_map(x: Tensor, window: Window, seed: int = 0) -> Tensor:
    """Floors from 0.9 to 0.99, one for each window of `(B, C, H, W)` images: `(B, C, h, w)`."""
    shape = (*x.shape[:2], *window.grid(*x.shape[-2:]))
    return 0.9 + 0.09 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check(program: Program, answer: Solution) -> None:
    """Asserts what any answer owes, however early it stops.

    It is finite, inside the ball without tolerance and by the independent certificate, no worse than doing
    nothing, below its bound, and its figures are those of its perturbation.
    """
    ball, delta = program.ball.double, answer.delta.double()
    images = ball.reference + delta
    assert answer.delta.dtype == program.linear.dtype
    assert bool(torch.isfinite(delta).all())
    assert bool((ball.scale(delta) == 1).all())
    assert bool(ball.contains(images).all())
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    report = certify(ball.reference, images, window=ball.window)
    if ball.floor is not None:
        assert bool((ball.ssim_map(images) >= ball.floor - ROUNDING).all())
        assert bool((report.min_ssim >= ball.floor.flatten(1).amin() - ROUNDING).all())
    if ball.mean is not None:
        assert bool((report.mean_ssim >= ball.mean.flatten() - ROUNDING).all())
    nothing = program.objective(torch.zeros_like(delta))
    slack = ROUNDING * (1 + answer.bound.abs())
    assert bool((answer.objective >= nothing - slack).all())
    assert bool((answer.objective <= answer.bound + slack).all())
    torch.testing.assert_close(answer.objective, program.objective(delta), rtol=1e-6, atol=ROUNDING)


def _as_single(values: Tensor) -> Tensor:
    return values.float().double()
