"""Projected gradient descent of a perturbation's own size, by foolbox: the l_p attack that a study compares with."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf

import torch
from torch import Tensor

from percep.attacks.baselines.counting import Counted, NotFiniteError
from percep.attacks.baselines.foolbox_attacks import Norm, pgd_of_epsilon
from percep.attacks.baselines.library_attack import Problem
from percep.attacks.network import Network

SAME_SIZE: Mapping[str, tuple[Norm, float]] = {"pgd_l2": ("l2", 2), "pgd_linf": ("linf", inf)}
"""By the names of baselines: the norm that each bounds, and its order."""


def pgd_of_the_size_of(
    name: str,
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    delta: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    steps: int,
) -> Tensor:
    """PGD (Madry et al., ICLR 2018) from a random start, in a ball with the norm of another perturbation.

    Random starts follow `torch.manual_seed`, image by image.

    Args:
        name: one of `SAME_SIZE`.
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits.
        images: `(B, C, H, W)` in [0, 1].
        delta: `(B, C, H, W)`; its norm, per image, is PGD's epsilon.
        labels, targets: `(B,)` class indices.
        steps: gradients per image.

    Returns:
        `(B, C, H, W)`, the perturbations, not rounded; 0 where logits or gradients are not finite.

    Raises:
        UnavailableError: foolbox is not installed.
    """
    norm, order = SAME_SIZE[name]
    perturb = pgd_of_epsilon(norm, steps)
    counted = Counted(Network(model, together=False), images.device)
    found = torch.zeros_like(delta)
    for image, size in enumerate(torch.linalg.vector_norm(delta.flatten(1), order, dim=1).tolist()):
        one = slice(image, image + 1)
        problem = Problem(counted, images[one], labels[one], None if targets is None else targets[one])
        with suppress(NotFiniteError), torch.enable_grad():
            found[one] = perturb(problem, size).detach() - images[one]
    return found
