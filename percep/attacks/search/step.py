"""The step of the minimal attack: the cheapest perturbation that reaches the goal by the tangent, on grey levels."""

from dataclasses import replace

import torch
from torch import Tensor

from percep.attacks.quantisation import descend, quantise_perturbation
from percep.attacks.search.state import RunState
from percep.ball.batch import per_image
from percep.solvers.conjugate_gradients import conjugate_gradients
from percep.solvers.quadratic import WindowQuadratic

# The least share with which a new gradient enters the running average.
_LEAST_SHARE = 0.02
_LINEAR_STEPS, _LINEAR_TOL = 4, 1e-2
# Integral control of the margin, as models bend away from their tangents: the share of a step's error that is added to
# the goal of the later ones, and the limit of the sum, as a share of the run's largest margin.
_INTEGRAL, _MAX_INTEGRAL = 0.3, 0.6
# How far beyond the boundary to aim, as a share of the run's largest margin: on the boundary nothing is adversarial.
_BEYOND = 1e-3
# By its tangent the next perturbation has to gain at least this share of what the present one gains.
_LEAST_KEPT = 0.3
_BISECTIONS = 14
# By how much a perturbation is stretched until it reaches the goal after rounding, and how often.
_STRETCH, _STRETCHES = 4.0, 6
# Share of the goal that has to be left after descent, which would remove a perturbation of a few pixels altogether.
_LEAST_GAIN = 0.9
_TINY = 1e-30


def average_gradient(state: RunState, gradient: Tensor, quadratic: WindowQuadratic) -> RunState:
    """The state with a new gradient `(B, C, H, W)` in its average, and its cheapest direction, `M^-1 average`."""
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
    """The state at the cheapest perturbation that passes the boundary by the tangent.

    Args:
        state: whose average includes the gradient at its perturbation.
        margins: `(B,)`, at its perturbation.
        slope: `(B,)`, the margin's derivative along the average; None if the average is of the margin's own gradients.
        quadratic: M of the cost at its perturbation.
        reference, levels: as in `quantise_perturbation`.
    """
    linear_term, direction = state.average, state.direction
    if slope is not None:
        factor = slope.reshape(-1, 1, 1, 1)
        linear_term, direction = factor * linear_term, factor * direction
    # A run that starts beyond the boundary has no error to correct: its first tangent leads back.
    beyond = (state.shortfall == 0) & (margins > 0)
    largest = torch.maximum(state.largest_margin, margins.abs())
    limit = _MAX_INTEGRAL * largest
    shortfall = (state.shortfall - _INTEGRAL * torch.where(beyond, 0.0, margins)).clamp(-limit, limit)
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
    for _ in range(_STRETCHES):  # most of a perturbation is rounded away if few pixels change by half a level
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

    On grey levels it is halfway between `direction`, the best ray of dense perturbations, and `linear_term` over the
    diagonal of M, that of sparse ones, whose pixels do not interact. From there one round of descent comes within a few
    percent of many rounds from either.
    """
    return direction if levels is None else (direction + linear_term / quadratic.exact_diagonal) / 2
