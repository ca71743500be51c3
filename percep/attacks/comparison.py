"""Attacks side by side: what each costs in SSIM on each image, in floating point and as saved."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from percep.attacks.baselines import Baseline
from percep.attacks.criteria import achieved
from percep.attacks.minimal import MinimalPerturbation
from percep.attacks.network import Network
from percep.attacks.quantisation import quantise
from percep.attacks.resave import cheapest_saved, pulled_back
from percep.attacks.result import AttackResult
from percep.certificate import certify
from percep.choices import ATTACK_NAMES, OURS, ROUNDING
from percep.errors import InputError


@dataclass(frozen=True)
class Outcome:
    """One attack on one image. Costs are 1 - mean SSIM, infinite without success.

    Attributes:
        attack: one of `ATTACK_NAMES`.
        origin: library, version and settings.
        float_cost: of the image as the attack gives it.
        saved_cost: of that image rounded to the nearest 8-bit levels.
        resaved_cost: of the cheapest adversarial 8-bit image on its ray, `resave.cheapest_saved`.
        floor_success: whether it survives being pulled back to the floor and saved; None without a floor.
        gradient_calls, forward_calls: of the attack itself.
        seconds: of the attack itself.
    """

    attack: str
    origin: str
    float_cost: float
    saved_cost: float
    resaved_cost: float
    floor_success: bool | None
    gradient_calls: int
    forward_calls: int
    seconds: float


def attack_by_name(
    name: str, model: Callable[[Tensor], Any], gradients: int
) -> tuple[Callable[[Tensor, Tensor, Tensor | None], AttackResult], str]:
    """An attack by its name in `ATTACK_NAMES`, and its origin: library, version and settings.

    Raises:
        InputError: an unknown name.
        UnavailableError: the attack's library is not installed.
    """
    if name == OURS:
        return MinimalPerturbation(model, gradients=gradients), f"percep: MinimalPerturbation(gradients={gradients})"
    if name not in ATTACK_NAMES:
        raise InputError(f"unknown attack {name!r}: choose {', '.join(ATTACK_NAMES)}")
    baseline = Baseline(name.removesuffix(ROUNDING), model, gradients, eight_bit=name.endswith(ROUNDING))
    return baseline, baseline.origin


@dataclass(frozen=True)
class Attempt:
    """One attack on one image.

    Attributes:
        outcome: what it costs.
        image: `(1, C, H, W)`, an 8-bit image: the one of `resaved_cost`, or where there is none, the attack's answer
            rounded to the nearest levels.
    """

    outcome: Outcome
    image: Tensor


def attempt(
    name: str,
    model: Callable[[Tensor], Any],
    image: Tensor,
    label: Tensor,
    target: Tensor | None = None,
    gradients: int = 200,
    floor: float | None = None,
) -> Attempt:
    """One attack on one image, timed, and what becomes of its answer when it is saved.

    Args:
        name: one of `ATTACK_NAMES`.
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits.
        image: `(1, C, H, W)` float32, multiples of 1/255.
        label, target: `(1,)` int64.
        gradients: most gradients.
        floor: where the answer is pulled back to, or None.
    """
    attack, origin = attack_by_name(name, model, gradients)
    start = time.perf_counter()
    result = attack(image, label, target)
    seconds = time.perf_counter() - start
    saved = quantise(result.images)
    resaved, met = cheapest_saved(model, image, result.images, label, target)
    outcome = Outcome(
        attack=name,
        origin=origin,
        float_cost=_cost(image, result.images, bool(result.success[0])),
        saved_cost=_cost(image, saved, _met(model, saved, label, target)),
        resaved_cost=_cost(image, resaved, bool(met[0])),
        floor_success=None
        if floor is None
        else bool(pulled_back(model, image, result.images, label, target, floor)[0]),
        gradient_calls=int(result.gradient_calls[0]),
        forward_calls=int(result.forward_calls[0]),
        seconds=seconds,
    )
    return Attempt(outcome, resaved if bool(met[0]) else saved)


def outcomes(
    name: str,
    model: Callable[[Tensor], Any],
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    gradients: int = 200,
    floor: float | None = None,
) -> list[Outcome]:
    """The outcome of `attempt` on each image alone, of `(B, C, H, W)` images with `(B,)` labels and targets."""
    each = [slice(image, image + 1) for image in range(len(images))]
    return [
        attempt(
            name, model, images[one], labels[one], None if targets is None else targets[one], gradients, floor
        ).outcome
        for one in each
    ]


def success_curve(costs: Sequence[float]) -> tuple[list[float], list[float]]:
    """Costs in ascending order, and the share of images adversarial at no more than each."""
    ranked = sorted(cost for cost in costs if cost < float("inf"))
    return ranked, [(place + 1) / len(costs) for place in range(len(ranked))]


def _met(model: Callable[[Tensor], Any], image: Tensor, label: Tensor, target: Tensor | None) -> bool:
    with torch.no_grad():
        return bool(achieved(Network(model, together=False)(image), label, target)[0])


def _cost(reference: Tensor, image: Tensor, success: bool) -> float:
    return 1 - float(certify(reference, image).mean_ssim[0]) if success else float("inf")
