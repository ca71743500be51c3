"""Attacks of torchattacks: Auto-PGD."""

from typing import Any

import torch
from torch import Tensor

from percep.attacks.baselines.epsilon_search import PROBES, smallest_epsilon
from percep.attacks.baselines.library_attack import LibraryAttack, Problem, load_library
from percep.errors import BASELINES_REMEDY


def apgd(gradients: int, eight_bit: bool) -> LibraryAttack:
    """Auto-PGD on the cross-entropy (Croce and Hein, ICML 2020) in Linf, smallest epsilon."""
    return _apgd("Linf", gradients, eight_bit)


def apgd_l2(gradients: int, eight_bit: bool) -> LibraryAttack:
    """Auto-PGD on the cross-entropy in L2, smallest epsilon."""
    return _apgd("L2", gradients, eight_bit)


def _apgd(norm: str, gradients: int, eight_bit: bool) -> LibraryAttack:
    library = load_library("torchattacks", BASELINES_REMEDY)
    # It takes one gradient more than it makes steps, at its random start.
    settings: dict[str, Any] = {"norm": norm, "steps": gradients // PROBES - 1, "loss": "ce"}

    def run(problem: Problem) -> Tensor | None:
        # The library seeds torch's generator with this number.
        seed = int(torch.randint(2**31, ()))

        def perturb(epsilon: float) -> Tensor:
            image: Tensor = library.APGD(problem.model, eps=epsilon, seed=seed, **settings)(
                problem.image, problem.label
            )
            return image

        return smallest_epsilon(problem, perturb, "linf" if norm == "Linf" else "l2", eight_bit)

    return LibraryAttack("torchattacks", "APGD", settings, run, targeted=False, epsilons=PROBES, eight_bit=eight_bit)
