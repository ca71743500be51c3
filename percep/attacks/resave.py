"""Float perturbations of any attack, saved as 8-bit images with percep's rounding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from percep.attacks.cost import Cost, Measure
from percep.attacks.criteria import achieved
from percep.attacks.network import Network
from percep.attacks.quantisation import descend, quantise, quantise_into_ball, quantise_perturbation
from percep.ball import SSIMBall
from percep.windows import Window

_LONGEST, _SHORTEST, _BISECTIONS = 16.0, 1 / 16, 8
_STRETCHES = (1.0, 2.0, 4.0, 8.0)


@torch.no_grad()
def cheapest_saved(
    model: Callable[[Tensor], Any],
    reference: Tensor,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    measure: Measure = "mean",
) -> tuple[Tensor, Tensor]:
    """The cheapest adversarial 8-bit images found along the rays from references through float images.

    A bisection on the logarithm of the ray's length between 1/16 and 16, once rounding to the nearest level and once
    to the level that costs least SSIM (`quantisation.descend`). No gradients are used, about twenty forward passes.

    Args:
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits.
        reference: `(B, C, H, W)`, multiples of 1/255.
        images: `(B, C, H, W)` in [0, 1].
        labels, targets: `(B,)` int64.
        measure: of the cost, 1 - SSIM on average or in the worst window.

    Returns:
        The images, their references where nothing adversarial was found, and `(B,)` bool, where it was.
    """
    network = Network(model, together=len(images) > 1)
    cost = Cost.of_reference(reference, Window.gaussian(), measure)
    delta = images - reference
    quadratic = cost.quadratic(delta)
    linear_term = quadratic.product(delta)
    best = quantise(reference)
    best_cost = torch.full_like(delta[:, 0, 0, 0], torch.inf)

    def nearest(length: Tensor) -> Tensor:
        return quantise_perturbation(length * delta, reference)

    def cheap(length: Tensor) -> Tensor:
        return descend(quadratic, length * linear_term, nearest(length), reference)

    for rounding in (nearest, cheap):
        low, high = torch.full_like(best_cost, _SHORTEST), torch.full_like(best_cost, _LONGEST)
        length = torch.ones_like(best_cost)
        for _ in range(_BISECTIONS):
            tried = quantise(reference + rounding(length.reshape(-1, 1, 1, 1)))
            met = achieved(network(tried), labels, targets)
            tried_cost = cost.of(cost.losses(tried))
            better = met & (tried_cost < best_cost)
            best = torch.where(better.reshape(-1, 1, 1, 1), tried, best)
            best_cost = torch.where(better, tried_cost, best_cost)
            high, low = torch.where(met, length, high), torch.where(met, low, length)
            length = (low * high).sqrt()
    return best, torch.isfinite(best_cost)


@torch.no_grad()
def pulled_back(
    model: Callable[[Tensor], Any],
    reference: Tensor,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    floor: float,
) -> Tensor:
    """`(B,)` bool: whether float images are still adversarial as 8-bit images above an SSIM floor.

    Tried are the cheapest image on the ray, by the worst window, and perturbations once, twice, four and eight times
    as long that retreat only where windows fall below the floor (`quantisation.quantise_into_ball`).
    """
    network = Network(model, together=len(images) > 1)
    saved, found = cheapest_saved(model, reference, images, labels, targets, "floor")
    cost = Cost.of_reference(reference, Window.gaussian(), "floor")
    success = found & (cost.of(cost.losses(saved)) <= 1 - floor)
    ball = SSIMBall(reference, floor=floor)
    for stretch in _STRETCHES:
        tried = quantise_into_ball(ball, stretch * (images - reference))
        success |= achieved(network(tried), labels, targets)
    return success
