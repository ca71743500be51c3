"""Perturbed images of so many grey levels, inside the ball as they are saved."""

from typing import cast, overload

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.batch import per_image
from percep.errors import InputError
from percep.program import FloorMultipliers, Multipliers, paired
from percep.solvers.lagrangian import window_weights
from percep.solvers.quadratic import WindowQuadratic
from percep.ssim import C1, C2, Losses, ssim_losses
from percep.validation.scalars import as_integer, shown

# SSIM losses of float32 images are good to about 1e-4 of themselves, so this much of a budget stays unused.
_RESERVE = 1e-3
# Multipliers are first raised and lowered for some rounds, then only raised until every window is inside.
_BALANCING, _RAISING = 4, 28
_RAISED = 1.15
_RETREATS = 60
# Values are taken for a level within this share of a step, and levels are not told apart from this share on.
_NEAR, _FARTHEST = 1e-2, 1 / 2
_TINY = 1e-30


def quantise(images: Tensor, levels: int | None = 256) -> Tensor:
    """The nearest images in `[0, 1]` of so many grey levels, multiples of `1 / (levels - 1)`: what a file holds.

    Args:
        images: floating point, of any shape; values outside [0, 1] are clamped.
        levels: 256 for files of 8 bits, 65536 for 16 bits, any other number from 2 on, or None, which only clamps.

    Raises:
        InputError: levels below 2, or more of them than the images' dtype can tell apart.
    """
    clamped = images.clamp(0, 1)
    if levels is None:
        return clamped
    steps = require_levels(levels, images.dtype) - 1
    return (clamped * steps).round() / steps


def quantise_perturbation(delta: Tensor, reference: Tensor, levels: int | None = 256) -> Tensor:
    """The nearest perturbation between images of so many levels, for a reference that is one."""
    clamped = delta.clamp(-reference, 1 - reference)
    if levels is None:
        return clamped
    level = 1 / (levels - 1)
    return (clamped / level).round() * level


def descend(
    quadratic: WindowQuadratic, linear_term: Tensor, delta: Tensor, reference: Tensor, levels: int | None = 256
) -> Tensor:
    """Lowers `<d, M d> / 2 - <linear_term, d>` over perturbations between images of so many levels.

    It minimises over them the separable function that lies above this one and touches it at `delta`, so the value
    does not rise. One product with M.

    Args:
        quadratic: M.
        linear_term: `(B, C, H, W)`.
        delta: where to start, between images of so many levels.
        reference: `(B, C, H, W)` in [0, 1], of so many levels.
        levels: as in `quantise`.
    """
    residual = linear_term - quadratic.product(delta)
    return quantise_perturbation(delta + residual / quadratic.majorizer.clamp_min(_TINY), reference, levels)


def quantised_optimum(
    ball: SSIMBall, linear_term: Tensor, multipliers: Multipliers, delta: Tensor, levels: int | None = 256
) -> Tensor:
    """Images of so many levels inside the true ball with a large `<linear_term, y - x>`: `(B, C, H, W)`.

    The Lagrangian of the program over the ball is lowered between grey levels, so that a rounding is chosen by what
    it does to the objective and to the constraints, while the multipliers follow the true SSIM of the rounded image:
    they rise in windows that lose more than they may, and fall in others. The true floor is wider than the program's,
    which splits it between luminance and contrast in advance, so that the objective may exceed the program's
    optimum. `quantise_into_ball` brings inside what is still outside in the end.

    Args:
        ball: the ball of references of so many levels.
        linear_term: `(B, C, H, W)`, finite, the linear term of a program.
        multipliers: the multipliers of its solution.
        delta: its solution.
        levels: as in `quantise`.
    """
    reference, window = ball.reference, ball.window
    size = (int(delta.shape[-2]), int(delta.shape[-1]))
    delta = quantise_perturbation(delta, reference, levels)
    best, best_gain = torch.zeros_like(delta), torch.zeros_like(per_image(delta))
    for round_ in range(_BALANCING + _RAISING):
        quadratic = WindowQuadratic(window, size, *window_weights(ball, multipliers))
        delta = descend(quadratic, linear_term, delta, reference, levels)
        floor_ratio, mean_ratio = _ratios(ball, ssim_losses(reference, reference + delta, window))
        inside = torch.ones_like(best_gain, dtype=torch.bool)
        for ratio in (floor_ratio, mean_ratio):
            if ratio is not None:
                inside &= (ratio <= 1).flatten(1).all(1).reshape(-1, 1, 1, 1)
        gain = per_image(linear_term * delta)
        better = inside & (gain > best_gain)
        best, best_gain = torch.where(better, delta, best), torch.where(better, gain, best_gain)
        rising = round_ >= _BALANCING
        if rising and bool(inside.all()):
            break
        multipliers = _followed(multipliers, floor_ratio, mean_ratio, rising)
    retreated = quantise_into_ball(ball, delta, levels) - reference
    return quantise(reference + torch.where(per_image(linear_term * retreated) > best_gain, retreated, best), levels)


def quantise_into_ball(ball: SSIMBall, delta: Tensor, levels: int | None = 256) -> Tensor:
    """Images of so many levels inside the true ball, near `reference + delta`: `(B, C, H, W)`.

    Rounding moves every pixel by up to half a level, which lowers the SSIM of dark flat windows most. In windows that
    fall below the floor the pixels that add to the loss shrink; a mean that is missed shrinks all of them; then
    everything is rounded again. With nothing left, the image is its reference, which is inside.

    Args:
        ball: the ball of references of so many levels.
        delta: `(B, C, H, W)`, finite.
        levels: as in `quantise`.
    """
    reference, window = ball.reference, ball.window
    size = (int(delta.shape[-2]), int(delta.shape[-1]))
    best = quantise(reference, levels)
    for _ in range(_RETREATS):
        rounded = quantise_perturbation(delta, reference, levels)
        losses = ssim_losses(reference, reference + rounded, window)
        floor_ratio, mean_ratio = _ratios(ball, losses)
        shrink = torch.ones_like(delta)
        if floor_ratio is not None:
            missed = (floor_ratio > 1).to(delta.dtype)
            slope = WindowQuadratic(
                window,
                size,
                missed / (ball.reference_mean**2 + C1),
                missed / (ball.reference_variance + C2),
            ).product(rounded)
            shrink = torch.where(slope * rounded > 0, 0.8, shrink)
        if mean_ratio is not None:
            shrink = shrink * torch.where(mean_ratio > 1, (1 - _RESERVE) * mean_ratio.rsqrt(), 1.0).clamp_min(0.3)
        shrunk = (shrink < 1).flatten(1).any(1)[:, None, None, None]
        best = torch.where(shrunk, best, reference + rounded)
        if not bool(shrunk.any()):
            break
        delta = torch.where(shrunk, shrink * delta, delta)
    return quantise(best, levels)


@overload
def require_levels(levels: None, dtype: torch.dtype | None = None) -> None: ...


@overload
def require_levels(levels: int, dtype: torch.dtype | None = None) -> int: ...


def require_levels(levels: int | None, dtype: torch.dtype | None = None) -> int | None:
    """Levels as Python's integer, or None; raises InputError for what is neither, or below 2, or too fine for a dtype.

    A dtype must tell levels apart.
    """
    if levels is None:
        return None
    number = as_integer(levels)
    if number is None or number < 2:
        raise InputError(
            f"levels must be an integer of 2 or more (256 for 8 bits), or None for floats, got {shown(levels)}"
        )
    if dtype is not None and level_tolerance(number, dtype) >= _FARTHEST:
        raise InputError(f"{dtype} does not tell {number} levels apart: give images.double(), or levels=None")
    return number


def as_levels(name: str, value: object) -> int | None:
    """A dataclass's field `levels`, as `percep.validation.fields.checked` asks for it."""
    del name
    return require_levels(cast(int | None, value))


def level_tolerance(levels: int, dtype: torch.dtype) -> float:
    """How far from an integer `(levels - 1) * value` may be for a value that is one of the levels.

    A level is rounded when it is divided by `levels - 1` and again when it is multiplied, each time by half of the
    dtype's epsilon at most, and twice as much is allowed for a level that was made by other arithmetic.
    """
    return max(_NEAR, 2 * torch.finfo(dtype).eps * (levels - 1))


def _ratios(ball: SSIMBall, losses: Losses) -> tuple[Tensor | None, Tensor | None]:
    """What is lost over what may be: per window for the floor, `(B, 1, 1, 1)` for the mean."""
    lost = losses.total()
    floor = mean = None
    if ball.floor is not None:
        floor = lost / ((1 - ball.floor) * (1 - _RESERVE)).to(lost.dtype)
    if ball.mean is not None:
        allowed = (1 - ball.mean) * (1 - _RESERVE)
        mean = (lost.double().flatten(1).mean(1).reshape(-1, 1, 1, 1) / allowed).to(lost.dtype)
    return floor, mean


def _followed(
    multipliers: Multipliers, floor_ratio: Tensor | None, mean_ratio: Tensor | None, rising: bool
) -> Multipliers:
    """The multipliers of the next round, from what each constraint loses over what it may."""
    floor = mean = None
    if (of_floor := paired(floor_ratio, multipliers.floor)) is not None:
        ratio, old = of_floor
        factor = _factor(ratio, rising)
        floor = FloorMultipliers(old.luminance * factor, old.contrast * factor)
    if (of_mean := paired(mean_ratio, multipliers.mean)) is not None:
        ratio, multiplier = of_mean
        mean = multiplier * _factor(ratio, rising)
    return Multipliers(floor, mean)


def _factor(ratio: Tensor, rising: bool) -> Tensor:
    """What a multiplier is multiplied by, given what its constraint loses over what it may."""
    if rising:
        return torch.where(ratio > 1, _RAISED * ratio.clamp_max(10) ** 2, 1.0)
    return ratio.clamp(0.1, 10).sqrt()
