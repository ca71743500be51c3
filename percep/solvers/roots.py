"""Roots of many increasing functions of one variable at once."""

from collections.abc import Callable

import torch
from torch import Tensor

_DOUBLINGS = 20
_EVALUATIONS = 100


def bracketed(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where increasing functions change sign: the ends of intervals a few float spacings wide, shaped like `low`.

    Chandrupatla's method (Adv. Eng. Software 28, 1997): inverse quadratic interpolation where three points allow
    it, bisection elsewhere, so a jump is found as well. `function` is evaluated on tensors shaped like `low`, element
    by element. Where it is positive at `low` or negative at `high`, both ends are that end.
    """
    eps = torch.finfo(low.dtype).eps
    scale = torch.maximum(low.abs(), high.abs())
    near, far = low, high
    at_near, at_far = function(near), function(far)
    far = torch.where(at_near >= 0, near, far)
    near = torch.where((at_far <= 0) & (far != near), far, near)
    share = torch.full_like(low, 0.5)
    for _ in range(_EVALUATIONS):
        width = (far - near).abs()
        resolution = 2 * eps * torch.maximum(near.abs(), 1e-3 * scale)
        done = width <= 2 * resolution
        if bool(done.all()):
            break
        min_share = resolution / torch.where(done, torch.inf, width)
        share = torch.where(done, 0.0, share.clamp(min_share, 1 - min_share))
        new = near + share * (far - near)
        at_new = function(new)
        same_sign = torch.sign(at_new) == torch.sign(at_near)
        last, at_last = torch.where(same_sign, near, far), torch.where(same_sign, at_near, at_far)
        far, at_far = torch.where(same_sign, far, near), torch.where(same_sign, at_far, at_near)
        near, at_near = new, at_new
        far = torch.where(at_near == 0, near, far)
        share = _interpolated(near, far, last, at_near, at_far, at_last)
    return torch.minimum(near, far), torch.maximum(near, far)


def _interpolated(near: Tensor, far: Tensor, last: Tensor, at_near: Tensor, at_far: Tensor, at_last: Tensor) -> Tensor:
    """The next point as a share of the way from `near` to `far`: on the inverse parabola where it is monotone.

    `xi` and `phi` are those of the paper, the relative positions of the three points and of their values.
    """
    xi, phi = (near - far) / (last - far), (at_near - at_far) / (at_last - at_far)
    parabola = at_near / (at_far - at_near) * at_last / (at_far - at_last)
    parabola = parabola + (last - near) / (far - near) * at_near / (at_last - at_near) * at_far / (at_last - at_far)
    monotone = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi) & parabola.isfinite()
    return torch.where(monotone, parabola, 0.5)


def least_multiplier(excess: Callable[[Tensor], Tensor], guess: Tensor) -> Tensor:
    """The least multipliers, at least 0, that meet constraints: `excess(multipliers) <= 0`, element by element.

    Args:
        excess: decreasing in the multiplier, positive where the constraint is violated.
        guess: positive where a multiplier is needed. The search goes up to `2^20` times the guess.
    """
    low, high = torch.zeros_like(guess), guess
    for _ in range(_DOUBLINGS):
        violated = excess(high) > 0
        if not bool(violated.any()):
            break
        low, high = torch.where(violated, high, low), torch.where(violated, 2 * high, high)
    return bracketed(lambda multiplier: -excess(multiplier), low, high)[1]
