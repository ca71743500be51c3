"""Roots of many increasing functions of one variable at once."""

from collections.abc import Callable

import torch
from torch import Tensor

_DOUBLINGS = 20
_EVALUATIONS = 100


def bracketed(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of intervals of a few roundings in which increasing functions change sign, `low` and `high` alike.

    Chandrupatla's method (Adv. Eng. Software 28, 1997): inverse quadratic interpolation where three points allow
    it, bisection elsewhere, so a jump is found as well. `function` maps the shape of `low` to itself, one number
    for each, independent of the others. A function that is positive at `low` or negative at `high` gives that end.
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
        least = resolution / torch.where(done, torch.inf, width)
        share = torch.where(done, 0.0, share.clamp(least, 1 - least))
        new = near + share * (far - near)
        at_new = function(new)
        kept = torch.sign(at_new) == torch.sign(at_near)
        last, at_last = torch.where(kept, near, far), torch.where(kept, at_near, at_far)
        far, at_far = torch.where(kept, far, near), torch.where(kept, at_far, at_near)
        near, at_near = new, at_new
        far = torch.where(at_near == 0, near, far)
        share = _interpolated(near, far, last, at_near, at_far, at_last)
    return torch.minimum(near, far), torch.maximum(near, far)


def _interpolated(near: Tensor, far: Tensor, last: Tensor, at_near: Tensor, at_far: Tensor, at_last: Tensor) -> Tensor:
    """The next point as a share of the way from `near` to `far`: of the inverse parabola where it is monotone."""
    place, level = (near - far) / (last - far), (at_near - at_far) / (at_last - at_far)
    parabola = at_near / (at_far - at_near) * at_last / (at_far - at_last)
    parabola = parabola + (last - near) / (far - near) * at_near / (at_last - at_near) * at_far / (at_last - at_far)
    monotone = (level**2 < place) & ((1 - level) ** 2 < 1 - place) & parabola.isfinite()
    return torch.where(monotone, parabola, 0.5)


def least_price(over: Callable[[Tensor], Tensor], guess: Tensor) -> Tensor:
    """The least price, at least 0, that keeps a budget, for `over` falling in the price and positive above the budget.

    Up to `2^20` times `guess`, which must be positive where a price is needed; the end of the last interval that
    keeps the budget.
    """
    low, high = torch.zeros_like(guess), guess
    for _ in range(_DOUBLINGS):
        short = over(high) > 0
        if not bool(short.any()):
            break
        low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    return bracketed(lambda price: -over(price), low, high)[1]
