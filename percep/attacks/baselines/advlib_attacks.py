"""Attacks of adv-lib: FMN, ALMA with SSIM or L2, PerC_AL."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor

from percep.attacks.baselines.library_attack import LibraryAttack, Problem, load_library
from percep.errors import BASELINES_REMEDY


def fmn(gradients: int, eight_bit: bool) -> LibraryAttack:
    """The fast minimum-norm attack, L2 (Pintor et al., NeurIPS 2021).

    foolbox has it too, but up to 3.3.4 its `L2FMNAttack.project` returns what it is given: on a linear model it
    ends eight times too far away.
    """
    del eight_bit
    return _library_attack("fmn", {"norm": 2, "steps": gradients})


def ddn_rounded(gradients: int) -> LibraryAttack:
    """Decoupled direction and norm, L2 (Rony et al., CVPR 2019), rounding to 8 bits inside."""
    return _library_attack("ddn", {"steps": gradients, "levels": 256}, eight_bit=True)


def alma_ssim(gradients: int, eight_bit: bool) -> LibraryAttack:
    """The augmented Lagrangian method (Rony et al., ICCV 2021) with 1 - SSIM as its distance.

    Without rounding its first step is a hundredth of the authors' for small images, from which it does worse on
    photographs.
    """
    # Its SSIM leaves out the windows that are cut by the border; with none left it never ends.
    return _alma("ssim", 1e-4 if eight_bit else 1e-6, gradients, eight_bit, min_side=11)


def alma_l2(gradients: int, eight_bit: bool) -> LibraryAttack:
    """The augmented Lagrangian method with L2 as its distance."""
    return _alma("l2", 0.1, gradients, eight_bit)


def perc_al(gradients: int, eight_bit: bool) -> LibraryAttack:
    """Alternating loss of classification and CIEDE2000 (Zhao et al., CVPR 2020); it always rounds to 8 bits."""
    # The number of classes is needed for a confidence only, which is 0.
    return _library_attack("perc_al", {"max_iterations": gradients, "num_classes": 0}, rgb=True, eight_bit=eight_bit)


def _alma(distance: str, first: float, gradients: int, eight_bit: bool, min_side: int = 1) -> LibraryAttack:
    # The authors' moving averages for 100 and for 1000 steps.
    average = 0.5 if gradients < 500 else 0.9
    settings = {"distance": distance, "num_steps": gradients, "init_lr_distance": first, "α": average}
    if eight_bit:
        settings["levels"] = 256
    return _library_attack("alma", settings, min_side=min_side, min_classes=3, eight_bit=eight_bit)


def _library_attack(
    name: str,
    settings: dict[str, Any],
    rgb: bool = False,
    min_side: int = 1,
    min_classes: int = 2,
    eight_bit: bool = False,
) -> LibraryAttack:
    with _without_visdom():
        attack = getattr(load_library("adv_lib.attacks", BASELINES_REMEDY), name)

    def run(problem: Problem) -> Tensor | None:
        image: Tensor = attack(
            problem.model, problem.image, problem.goal, targeted=problem.target is not None, **settings
        )
        return image

    return LibraryAttack(
        "adv-lib", name, settings, run, rgb=rgb, min_side=min_side, min_classes=min_classes, eight_bit=eight_bit
    )


@contextmanager
def _without_visdom() -> Iterator[None]:
    """adv-lib imports visdom, for plots that are not asked for here: an empty module will do where it is missing."""
    if "visdom" in sys.modules or find_spec("visdom") is not None:
        yield
        return
    sys.modules["visdom"] = ModuleType("visdom")
    try:
        yield
    finally:
        del sys.modules["visdom"]
