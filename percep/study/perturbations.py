"""The perturbations a study compares with the attack's: first-order optima, controls, other attacks of equal size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from percep.attacks import FrankWolfe
from percep.attacks.baselines.library_attack import load_library
from percep.attacks.comparison import attack_by_name
from percep.attacks.criteria import Loss, loss
from percep.attacks.quantisation import quantised_optimum
from percep.ball import SSIMBall
from percep.errors import BASELINES_REMEDY
from percep.explain import phase_shuffled, random_gradient, restrict, sign_flipped
from percep.program import Multipliers, Program
from percep.solvers import solve
from percep.study.same_size import SAME_SIZE, pgd_of_the_size_of
from percep.windows import Window

CONTROLS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "random": random_gradient,
    "phase_shuffled": phase_shuffled,
    "sign_flipped": lambda gradient, _: sign_flipped(gradient),
}
"""Controls for the gradient: noise, its phases shuffled, its sign flipped."""

UNIFORM = "uniform_ball"
_GREY = 0.5


@dataclass(frozen=True)
class Setting:
    """The ball and the attack in it.

    Attributes:
        floor, mean: least SSIM in any window and on average, in (0, 1); at least one is given.
        window: of the ball; maps and sizes are always those of SSIM's default window.
        steps: gradients the attack may take per image.
        loss: of the attack.
        tol: certified relative gap asked of each program.
    """

    floor: float | None
    mean: float | None
    window: Window
    steps: int = 10
    loss: Loss = "margin"
    tol: float = 1e-2

    def ball(self, images: Tensor) -> SSIMBall:
        """The ball of `(B, C, H, W)` images, its ellipsoid expanded at them."""
        ball = SSIMBall(images, self.floor, self.mean, self.window)
        return ball if ball.mean is None else ball.expand(torch.zeros_like(images))

    def attack(self, model: Callable[[Tensor], Tensor]) -> FrankWolfe:
        """The attack in this ball."""
        return FrankWolfe(model, self.floor, self.mean, self.steps, self.loss, self.window, self.tol)


def gradient_at(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, targets: Tensor | None, name: Loss
) -> Tensor:
    """The gradient of the attack's loss at the images, `(B, C, H, W)`; `labels` and `targets` are `(B,)` classes."""
    inputs = images.detach().requires_grad_(True)
    with torch.enable_grad():
        values = loss(name, model(inputs), labels, targets)
        (gradient,) = torch.autograd.grad(values.sum(), inputs)
    return gradient.detach()


@dataclass(frozen=True)
class Optimum:
    """The best first-order perturbation in a ball, as 8-bit images.

    Attributes:
        ball: of the program.
        unrounded: `(B, C, H, W)`, the program's solution.
        multipliers: of the solution.
        delta: `(B, C, H, W)`, between 8-bit images, inside the true ball.
    """

    ball: SSIMBall
    unrounded: Tensor
    multipliers: Multipliers
    delta: Tensor


def optimum(setting: Setting, images: Tensor, gradient: Tensor) -> Optimum:
    """Solves one program for a gradient and rounds the solution to 8 bits by its multipliers.

    Args:
        setting: the ball.
        images: `(B, C, H, W)` in [0, 1], multiples of 1/255.
        gradient: the same shape, at any scale. Where it is 0, so is the perturbation.
    """
    ball = setting.ball(images)
    size = gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    direction = gradient / torch.where(size > 0, size, 1.0)
    solution = solve(Program(ball, direction), tol=setting.tol)
    found = quantised_optimum(ball, direction, solution.multipliers, solution.delta)
    return Optimum(ball, solution.delta, solution.multipliers, found - images)


def in_uniform_ball(setting: Setting, images: Tensor, gradient: Tensor, budget: Tensor) -> Tensor:
    """The optimum in a ball with the same radius in every window, rescaled to a given size: `(B, C, H, W)`.

    The ball is that of a grey image, so the perturbation follows the gradient alone; it is then rescaled to spend
    `budget`, `(B,)` of 1 - mean SSIM, on the images. It is not rounded.
    """
    grey = torch.full_like(images, _GREY)
    delta = solve(Program(setting.ball(grey), gradient), tol=setting.tol).delta
    return equal_size(images, delta.clamp(-images, 1 - images), budget)


def require_baseline(name: str, model: Callable[[Tensor], Tensor], gradients: int) -> None:
    """Refuses an attack that `baseline_perturbation` cannot run.

    Raises:
        InputError: an unknown name, or too few gradients.
        UnavailableError: the attack's library is not installed.
    """
    if name in SAME_SIZE:
        load_library("foolbox", BASELINES_REMEDY)
    else:
        attack_by_name(name, model, gradients)


def baseline_perturbation(
    name: str,
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    delta: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    gradients: int,
    budget: Tensor,
) -> Tensor:
    """The perturbation of another attack, rescaled to a size: `(B, C, H, W)`, not rounded; 0 where it found none.

    PGD is run once, at the norm that `delta` has; other attacks search for their own smallest perturbation.

    Args:
        name: one of `percep.choices.ATTACK_NAMES`.
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits.
        images: `(B, C, H, W)` in [0, 1].
        delta: `(B, C, H, W)`, the perturbation it is compared with.
        labels, targets: `(B,)` class indices.
        gradients: the attack may take per image.
        budget: `(B,)`, 1 - mean SSIM to be spent.

    Raises:
        InputError: an unknown name, or targets for an attack that takes none.
        UnavailableError: the attack's library is not installed.
    """
    if name in SAME_SIZE:
        found = pgd_of_the_size_of(name, model, images, delta, labels, targets, gradients)
    else:
        attack, _ = attack_by_name(name, model, gradients)
        found = attack(images, labels, targets).images - images
    return equal_size(images, found, budget)


def equal_size(images: Tensor, delta: Tensor, budget: Tensor) -> Tensor:
    """A perturbation rescaled to spend `budget`, `(B,)` of 1 - mean SSIM: `(B, C, H, W)`, not rounded."""
    everywhere = torch.ones_like(delta[:, 0], dtype=torch.bool)
    return restrict(images, delta, everywhere, budget).delta
