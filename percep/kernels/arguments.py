"""What goes into the update of multipliers, and comes out of it, on either device."""

from typing import NamedTuple

import torch
from torch import Tensor


class Floor(NamedTuple):
    """What the update of the floor's multipliers reads.

    Attributes:
        k: k1 and k2, of the same shape, broadcasting to `(B, C, h, w)`.
        radii: R1 and R2, `(B, C, h, w)`.
        multipliers: l1 and l2, likewise.
        last: their last steps, likewise.
        least: share of an image's largest multiplier below which none falls.
    """

    k: tuple[Tensor, Tensor]
    radii: tuple[Tensor, Tensor]
    multipliers: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]
    least: float


class Updated(NamedTuple):
    """What an update makes: l1, l2 and their steps, `(B, C, h, w)`, and the ellipsoid's `|K d|^2`, `(B, 1, 1, 1)`."""

    multipliers: tuple[Tensor, Tensor]
    steps: tuple[Tensor, Tensor]
    spent: Tensor


class Laid(NamedTuple):
    """A `Floor` as kernels take it, and room for what they make of it; anything at all without a floor.

    Attributes:
        k, radii, multipliers, last: as in `Floor`, contiguous.
        strides: of both k, by image and window.
        raised, steps: for l1 and l2, and their steps.
    """

    k: tuple[Tensor, Tensor]
    strides: tuple[int, int]
    radii: tuple[Tensor, Tensor]
    multipliers: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]
    raised: tuple[Tensor, Tensor]
    steps: tuple[Tensor, Tensor]


def no_less(multipliers: Tensor, share: float) -> Tensor:
    """Raises multipliers to a share of the image's largest, in place, so that none is lost for good."""
    return multipliers.clamp_min_(share * multipliers.flatten(1).amax(1).reshape(-1, 1, 1, 1))


def laid(floor: Floor | None, like: Tensor) -> Laid:
    """Lays out a floor of windows `like`, `(B, C, h, w)`, which also stands where there is nothing."""
    unused = (like, like)
    if floor is None:
        return Laid(unused, (0, 0), unused, unused, unused, unused, unused)
    k, strides = _per_window(floor.k, like)
    given = (contiguous(pair) for pair in (floor.radii, floor.multipliers, floor.last))
    made = ((room(like), room(like)) for _ in range(2))
    return Laid(k, strides, *given, *made)


def _per_window(k: tuple[Tensor, Tensor], like: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """Both k as the kernel reads them, with their strides by image and window."""
    if k[0].numel() == k[0].shape[0]:
        return contiguous(k), (int(k[0].shape[0] > 1), 0)
    first, second = (each.expand(like.shape).contiguous() for each in k)
    return (first, second), (like.shape[1:].numel(), 1)


def room(like: Tensor) -> Tensor:
    """Room for a contiguous tensor of that shape."""
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def contiguous(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return pair[0].contiguous(), pair[1].contiguous()
