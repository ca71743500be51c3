"""Attacks of foolbox: FGSM, PGD, DDN, Carlini and Wagner."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from percep.attacks.baselines.advlib_attacks import ddn_rounded
from percep.attacks.baselines.epsilon_search import PROBES, smallest_epsilon
from percep.attacks.baselines.library_attack import LibraryAttack, Problem, load_library
from percep.errors import BASELINES_REMEDY

Norm = Literal["linf", "l2"]

_PGD: dict[Norm, str] = {"linf": "LinfProjectedGradientDescentAttack", "l2": "L2ProjectedGradientDescentAttack"}


def fgsm(gradients: int, eight_bit: bool) -> LibraryAttack:
    """The fast gradient sign method (Goodfellow et al., ICLR 2015) with the smallest epsilon; one gradient."""
    del gradients
    attack = _foolbox().attacks.LinfFastGradientAttack(random_start=False)

    def run(problem: Problem) -> Tensor | None:
        # At epsilon 1 every pixel is driven to the end of its range, which tells the sign of its gradient.
        direction = (_run(attack, problem, epsilon=1.0) - problem.image).sign()
        return smallest_epsilon(
            problem, lambda epsilon: (problem.image + epsilon * direction).clamp(0, 1), "linf", eight_bit
        )

    settings = {"random_start": False}
    return LibraryAttack(
        "foolbox", "LinfFastGradientAttack", settings, run, targeted=False, epsilons=PROBES, eight_bit=eight_bit
    )


def pgd_linf(gradients: int, eight_bit: bool) -> LibraryAttack:
    """Projected gradient descent (Madry et al., ICLR 2018) in Linf, from a random start, smallest epsilon."""
    return _pgd("linf", gradients, eight_bit)


def pgd_l2(gradients: int, eight_bit: bool) -> LibraryAttack:
    """Projected gradient descent in L2, from a random start, smallest epsilon."""
    return _pgd("l2", gradients, eight_bit)


def ddn(gradients: int, eight_bit: bool) -> LibraryAttack:
    """Decoupled direction and norm, L2 (Rony et al., CVPR 2019); rounding inside is adv-lib's."""
    if eight_bit:
        return ddn_rounded(gradients)
    settings = {"steps": gradients, "init_epsilon": 1.0, "gamma": 0.05}
    attack = _foolbox().attacks.DDNAttack(**settings)
    return LibraryAttack("foolbox", "DDNAttack", settings, lambda problem: _run(attack, problem))


def cw(gradients: int, eight_bit: bool) -> LibraryAttack:
    """Carlini and Wagner, L2 (IEEE S&P 2017).

    Of sixteen settings tried on photographs and EfficientNet-Lite0 with 100 gradients these are among the best;
    smaller steps do as well there, but reach fewer than the six grey levels that a stronger model needs.
    """
    del eight_bit
    searches = 4
    steps = gradients // searches
    settings = {
        "binary_search_steps": searches,
        "steps": steps,
        "stepsize": 0.05 / steps,
        "initial_const": 0.01,
        "abort_early": False,
    }
    attack = _foolbox().attacks.L2CarliniWagnerAttack(**settings)

    def run(problem: Problem) -> Tensor | None:
        image = _run(attack, problem)
        # It answers with a black image where it found nothing, which some models misclassify.
        return image if bool(image.any()) else None

    return LibraryAttack("foolbox", "L2CarliniWagnerAttack", settings, run)


def pgd_of_epsilon(norm: Norm, steps: int) -> Callable[[Problem, float], Tensor]:
    """Projected gradient descent from a random start: `(1, C, H, W)` images of a problem, from an epsilon.

    Raises:
        UnavailableError: foolbox is not installed.
    """
    attack = getattr(_foolbox().attacks, _PGD[norm])(**_pgd_settings(steps))
    return lambda problem, epsilon: _run(attack, problem, epsilon=epsilon)


def _pgd(norm: Norm, gradients: int, eight_bit: bool) -> LibraryAttack:
    steps = gradients // PROBES
    perturb = pgd_of_epsilon(norm, steps)

    def run(problem: Problem) -> Tensor | None:
        return smallest_epsilon(problem, lambda epsilon: perturb(problem, epsilon), norm, eight_bit)

    return LibraryAttack("foolbox", _PGD[norm], _pgd_settings(steps), run, epsilons=PROBES, eight_bit=eight_bit)


def _pgd_settings(steps: int) -> dict[str, object]:
    # Madry's rule: the steps add up to 2.5 epsilon, so that any point can be reached from any start.
    return {"steps": steps, "rel_stepsize": 2.5 / steps, "random_start": True}


def _run(attack: Any, problem: Problem, **arguments: float) -> Tensor:
    foolbox = _foolbox()
    model = foolbox.PyTorchModel(problem.model, bounds=(0, 1), device=problem.image.device)
    targeted = problem.target is not None
    criterion = foolbox.criteria.TargetedMisclassification if targeted else foolbox.criteria.Misclassification
    image: Tensor = attack.run(model, problem.image, criterion(problem.goal), **arguments)
    return image


def _foolbox() -> Any:
    return load_library("foolbox", BASELINES_REMEDY)
