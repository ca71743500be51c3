"""The step of the minimal attack: the cheapest perturbation that a tangent asks for, on the lattice of levels."""

import torch
from torch import Tensor

from percep.attacks.quantisation import descend, to_level
from percep.solvers.quadratic import WindowQuadratic, per_image

_BISECTIONS = 14
# By how much a perturbation is stretched until it reaches the goal after rounding, and how often.
_STRETCH, _STRETCHES = 4.0, 6
# Descent may give up this share of the gain; of a perturbation of a few pixels it would take all.
_LEAST_GAIN = 0.9
_TINY = 1e-30


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
        return to_level(scale * target, reference, levels)

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
    """Along which a step is looked for, before it is rounded: `(B, C, H, W)`.

    On the lattice where a sparse perturbation is cheapest, pixels are worth what they are on their own, `linear_term`
    over the diagonal of M; where it is dense, what they are together, `direction`. A start halfway and one round of
    descent come within a few percent of many rounds from either.
    """
    return direction if levels is None else (direction + linear_term / quadratic.exact_diagonal) / 2
