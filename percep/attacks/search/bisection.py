"""Bisection along a ray from a reference: where images on it stop being adversarial, in forward passes alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from percep.attacks.quantisation import quantise, quantise_perturbation

IsAdversarial = Callable[[Tensor, Tensor], Tensor]
"""`(n,)` places in a batch and `(n, C, H, W)` perturbations of these to `(n,)` bool."""

_BISECTIONS = 14
# Lengths that a search along a ray of unknown length begins between, and how often it halves their ratio.
_SHORTEST, _LONGEST, _HALVINGS = 1e-3, 1e3, 8


def bracket_boundary(
    delta: Tensor, reference: Tensor, levels: int | None, is_adversarial: IsAdversarial
) -> tuple[Tensor, Tensor]:
    """Two perturbations `(B, C, H, W)` close to each other on each ray, the first adversarial, the second not.

    Fourteen bisections; an image that rounds to either end of its interval is not evaluated again.

    Args:
        delta: adversarial perturbations, the ends of the rays.
        reference: `(B, C, H, W)` in [0, 1], of so many levels, not adversarial: the other end.
        levels: as in `quantise`.
        is_adversarial: evaluates perturbations.
    """
    outer, inner = delta, torch.zeros_like(delta)
    low, high = delta.new_zeros(len(delta)), delta.new_ones(len(delta))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        tried = quantise(reference + middle.reshape(-1, 1, 1, 1) * delta, levels) - reference
        met = _same(tried, outer)
        unknown = torch.nonzero(~(met | _same(tried, inner))).flatten()
        if len(unknown):
            met[unknown] = is_adversarial(unknown, tried[unknown])
        chosen = met.reshape(-1, 1, 1, 1)
        outer, inner = torch.where(chosen, tried, outer), torch.where(chosen, inner, tried)
        low, high = torch.where(met, low, middle), torch.where(met, middle, high)
    return outer, inner


def first_crossing(direction: Tensor, reference: Tensor, levels: int | None, is_adversarial: IsAdversarial) -> Tensor:
    """Perturbations `(B, C, H, W)` along rays of unknown length, just long enough to be adversarial.

    Eight bisections of the logarithm of the length. Where no length is adversarial, the longest that was tried.

    Args:
        direction: `(B, C, H, W)`, of a length that is right to a factor of a thousand.
        reference, levels, is_adversarial: as in `bracket_boundary`.
    """
    low = direction.new_full((len(direction), 1, 1, 1), _SHORTEST)
    high = torch.full_like(low, _LONGEST)
    places = torch.arange(len(direction), device=direction.device)
    crossed = torch.zeros_like(direction)
    found = torch.zeros_like(low, dtype=torch.bool)
    for _ in range(_HALVINGS):
        length = (low * high).sqrt()
        tried = quantise_perturbation(length * direction, reference, levels)
        met = is_adversarial(places, tried).reshape(-1, 1, 1, 1)
        crossed = torch.where(met | ~found, tried, crossed)
        found |= met
        low, high = torch.where(met, low, length), torch.where(met, length, high)
    return crossed


def _same(first: Tensor, second: Tensor) -> Tensor:
    """`(B,)` bool: which images are equal."""
    return (first == second).flatten(1).all(1)
