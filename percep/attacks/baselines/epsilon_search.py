"""The smallest epsilon at which an attack of fixed epsilon succeeds."""

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from percep.attacks.baselines.library_attack import Problem
from percep.attacks.quantisation import quantise

PROBES = 10
"""Values of epsilon tried. They narrow five decades down to one percent."""
_LOWEST = 1e-5


def smallest_epsilon(
    problem: Problem, perturb: Callable[[float], Tensor], norm: Literal["linf", "l2"], eight_bit: bool
) -> Tensor | None:
    """The adversarial image of the smallest epsilon found, by bisection on a logarithmic scale.

    Args:
        problem: decides, with one forward pass for each epsilon, whether an image is adversarial.
        perturb: gives the attack's `(1, C, H, W)` image for an epsilon.
        norm: what epsilon bounds. The search begins between the distance of a black from a white image and 1e-5 of it.
        eight_bit: whether images are rounded to 8 bits before they are evaluated.

    Returns:
        The image, or None where no epsilon succeeded.
    """
    high = 1.0 if norm == "linf" else math.sqrt(problem.image.numel())
    best, low = None, _LOWEST * high
    for _ in range(PROBES):
        epsilon = math.sqrt(low * high)
        image = quantise(perturb(epsilon)) if eight_bit else perturb(epsilon)
        if problem.met(image):
            best, high = image, epsilon
        else:
            low = epsilon
    return best
