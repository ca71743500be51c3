"""Projected gradient descent of a perturbation's own size, by foolbox: the l_p attack that a study compares with."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf

import torch
from torch import Tensor

from percep.attacks.baselines.counting import Counted, NotFiniteError
from percep.attacks.baselines.library_attack import load_library
from percep.attacks.network import Network
from percep.errors import BASELINES_REMEDY

SAME_SIZE: Mapping[str, tuple[str, float]] = {
    "pgd_l2": ("L2ProjectedGradientDescentAttack", 2),
    "pgd_linf": ("LinfProjectedGradientDescentAttack", inf),
}
"""By the names of baselines: foolbox's attacks, and the norm that each bounds."""

_REACH = 2.5
"""Madry's rule: the steps add up to so many epsilon, so that any point can be reached from any start."""


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
    foolbox = load_library("foolbox", BASELINES_REMEDY)
    attack_name, order = SAME_SIZE[name]
    attack = getattr(foolbox.attacks, attack_name)(steps=steps, rel_stepsize=_REACH / steps, random_start=True)
    criteria = foolbox.criteria
    counted = Counted(Network(model, together=False), images.device)
    network = foolbox.PyTorchModel(counted, bounds=(0, 1), device=images.device)
    found = torch.zeros_like(delta)
    for image, size in enumerate(torch.linalg.vector_norm(delta.flatten(1), order, dim=1).tolist()):
        one = slice(image, image + 1)
        if targets is None:
            criterion = criteria.Misclassification(labels[one])
        else:
            criterion = criteria.TargetedMisclassification(targets[one])
        with suppress(NotFiniteError), torch.enable_grad():
            found[one] = attack.run(network, images[one], criterion, epsilon=size).detach() - images[one]
    return found
