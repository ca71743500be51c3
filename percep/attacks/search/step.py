"""The step of the minimal attack: the cheapest perturbation that a tangent asks for, rounded to grey levels."""

from dataclasses import replace

import torch
from torch import Tensor

from percep.attacks.quantisation import descend, quantise_perturbation
from percep.attacks.search.state import RunState
from percep.solvers.conjugate_gradients import conjugate_gradients
from percep.solvers.quadratic import WindowQuadratic, per_image

# The least share with which a new gradient enters the running average.
_LEAST_SHARE = 0.02
_LINEAR_STEPS, _LINEAR_TOL = 4, 1e-2
# Share of what was missing that is asked for in addition from then on, as the model bends away from its tangents, and
# the most that is asked for, as a share of the largest margin met in the run.
_INTEGRAL, _MOST_INTEGRAL = 0.3, 0.6
# How far beyond the boundary to aim, as a share of the largest margin met in the run: on it nothing is adversarial.
_BEYOND = 1e-3
# The least share of what the present perturbation gains by its tangent that the next one has to gain.
_LEAST_KEPT = 0.3
_BISECTIONS = 14
# By how much a perturbation is stretched until it reaches the goal after rounding, and how often.
_STRETCH, _STRETCHES = 4.0, 6
# Descent may give up this share of the gain; of a perturbation of a few pixels it would take all.
_LEAST_GAIN = 0.9
_TINY = 1e-30


def average_gradient(state: RunState, gradient: Tensor, quadratic: WindowQuadratic) -> RunState:
    """The state with a new gradient `(B, C, H, W)` in its average, and the direction that is cheapest for it."""
    steps = state.steps + 1
    share = (steps.to(gradient.dtype) ** -state.power).clamp_min(_LEAST_SHARE).reshape(-1, 1, 1, 1)
    average = torch.lerp(state.average, gradient, share)
    direction, _ = conjugate_gradients(
        quadratic.product, quadratic.preconditioner, average, _LINEAR_TOL, _LINEAR_STEPS, x0=state.direction
    )
    return replace(state, steps=steps, average=average, direction=direction)


def move_to_boundary(
    state: RunState,
    margins: Tensor,
    slope: Tensor | None,
    quadratic: WindowQuadratic,
    reference: Tensor,
    levels: int | None,
) -> RunState:
    """The state at the cheapest perturbation that reaches the goal by the tangent, and a little more.

    Args:
        state: with the gradient at its perturbation in its average.
        margins: `(B,)`, at its perturbation.
        slope: `(B,)`, margin per unit along the average; None where the average is of the margin itself.
        quadratic: M of the cost at its perturbation.
        reference, levels: as in `quantise_perturbation`.
    """
    linear_term, direction = state.average, state.direction
    if slope is not None:
        factor = slope.reshape(-1, 1, 1, 1)
        linear_term, direction = factor * linear_term, factor * direction
    # A run that starts beyond the boundary has no shortfall to take back: its first tangent leads back.
    beyond = (state.shortfall == 0) & (margins > 0)
    largest = torch.maximum(state.largest_margin, margins.abs())
    most = _MOST_INTEGRAL * largest
    shortfall = (state.shortfall - _INTEGRAL * torch.where(beyond, 0.0, margins)).clamp(-most, most)
    gained = per_image(linear_term * state.delta).flatten()
    needed = gained - margins + shortfall + _BEYOND * largest
    needed = torch.maximum(needed, _LEAST_KEPT * gained.abs())
    delta = minimal_step(quadratic, linear_term, direction, needed, reference, levels)
    return replace(state, delta=delta, shortfall=shortfall, largest_margin=largest)


def minimal_step(
    quadratic: WindowQuadratic,
    linear_term: Tensor,
    direction: Tensor,
    needed: Tensor,
    reference: Tensor,
    levels: int | None,
) -> Tensor:
    """The cheapest perturbation d with `<linear_term, d> >= needed`, `(B,)`, near the ray of `direction`.

    The direction is `M^-1 linear_term`.
    """
    target = ray(quadratic, linear_term, direction, levels)

    def scaled(scale: Tensor) -> Tensor:
        return quantise_perturbation(scale * target, reference, levels)

    slope = per_image(linear_term * target)
    goal = needed.reshape(-1, 1, 1, 1)
    low, high = torch.zeros_like(slope), _STRETCH * goal / slope.clamp_min(_TINY)
    for _ in range(_STRETCHES):  # where only a few pixels are worth a level, most of a perturbation is rounded away
        short = per_image(linear_term * scaled(high)) < goal
        if not bool(short.any()):
            break
        low, high = torch.where(short, high, low), torch.where(short, _STRETCH * high, high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        enough = per_image(linear_term * scaled(middle)) >= goal
        high, low = torch.where(enough, middle, high), torch.where(enough, low, middle)
    moved = scaled(high)
    if levels is None:
        return moved
    lower = descend(quadratic, high * linear_term, moved, reference, levels)
    return torch.where(per_image(linear_term * lower) >= _LEAST_GAIN * goal, lower, moved)


def ray(quadratic: WindowQuadratic, linear_term: Tensor, direction: Tensor, levels: int | None) -> Tensor:
    """The ray on which a step is searched, before it is rounded: `(B, C, H, W)`.

    Between grey levels, where a sparse perturbation is cheapest, pixels are worth what they are on their own,
    `linear_term` over the diagonal of M; where it is dense, what they are together, `direction`. A start halfway and
    one round of descent come within a few percent of many rounds from either.
    """
    return direction if levels is None else (direction + linear_term / quadratic.exact_diagonal) / 2
