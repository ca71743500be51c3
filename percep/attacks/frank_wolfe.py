"""The paper's attack: the best first-order perturbation in the SSIM ball, iterated."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from percep.attacks.criteria import GradientFunction, Loss
from percep.attacks.network import own_modes, plain
from percep.attacks.objective import Objective
from percep.attacks.quantisation import as_levels, quantise_into_ball, quantised_optimum
from percep.attacks.result import AttackResult, AttackStatus
from percep.attacks.tracker import Tracker
from percep.attacks.validation import check_images
from percep.ball import SSIMBall
from percep.errors import InputError
from percep.program import Program, Solution
from percep.solvers import solve
from percep.validation.class_indices import ClassIndices
from percep.validation.fields import checked, optional
from percep.validation.scalars import require_integer, require_level
from percep.windows import Window


@dataclass(frozen=True)
class FrankWolfe:
    """Frank-Wolfe over the SSIM ball (Pochimireddy et al., IEEE JSTSP 2022), evaluated on images as they are saved.

    Each step takes the loss's gradient at the saved image of the current perturbation, adds it to the running
    average of gradients with Frank-Wolfe's weight `2 / (t + 2)`, and solves the linear program over the ball for
    that average. Averaging gradients rather than their solutions (dual averaging, Nesterov, Math. Program. 2009) takes
    as many steps, and leaves the multipliers of the perturbation, by which it is rounded to grey levels inside the
    true ball (`quantised_optimum`). An image whose saved version is adversarial is finished. With a
    mean, the ellipsoid is expanded at the reference. Where an image beyond the reference has no gradient, the next step
    starts halfway back.

    Attributes:
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits, or to probabilities, whose logarithms are
            taken; every module in it must be in eval mode. Nothing of it is changed, and it alone runs under the
            caller's `torch.autocast`.
        floor: least SSIM in any window, in (0, 1), or None.
        mean: least mean SSIM, in (0, 1), or None. At least one of floor and mean is needed.
        steps: most gradients per image and run.
        loss: "margin" (best other logit minus the label's), "cross_entropy" or "dlr" (difference of logits ratio).
        window: the SSIM window, `Window.gaussian()` by default.
        tol: certified relative gap asked of each program.
        restarts: further runs of an untargeted attack that has not succeeded, each towards the next of the classes
            that were likeliest at the reference.
        top_k: the label must leave the k best classes, or the target enter them.
        gradient: a function of `(images, labels, targets)` that gives what is to be increased, `(B,)`, and its
            gradient, instead of the loss of the model: an ensemble, an expectation over transformations.
            Success is still a matter of `model`.
        levels: grey levels of the images: 256 for files of 8 bits, 65536 for 16 bits, any other integer from 2 on, or
            None for images in floating point.
    """

    model: Callable[[Tensor], Any]
    floor: float | None = checked(None, optional(require_level))
    mean: float | None = checked(None, optional(require_level))
    steps: int = checked(10, partial(require_integer, least=1))
    loss: Loss = "margin"
    window: Window | None = None
    tol: float = 1e-2
    restarts: int = checked(0, partial(require_integer, least=0))
    top_k: int = checked(1, partial(require_integer, least=1))
    gradient: GradientFunction | None = None
    levels: int | None = checked(256, as_levels)

    def __post_init__(self) -> None:
        if self.floor is None and self.mean is None:
            raise InputError("FrankWolfe needs a floor, a mean or both, each in (0, 1)")
        if self.loss not in get_args(Loss):
            raise InputError(f"loss must be one of {', '.join(get_args(Loss))}, got {self.loss!r}")
        if self.restarts and self.gradient is not None:
            raise InputError("restarts follow single classes of the model: they need its own gradient")

    def __call__(self, images: Tensor, labels: ClassIndices, targets: ClassIndices | None = None) -> AttackResult:
        """Attacks a batch, in the images' precision, under any mode of torch's; no random number is drawn.

        Args:
            images: `(B, C, H, W)` float32 or float64 in [0, 1], of so many `levels` (multiples of 1/255 for 256), so
                that a saved reference is the reference. An image with NaN or infinity gets the status `not_finite`.
            labels: `(B,)` class indices, to be left: a tensor, an array or a list of integers.
            targets: `(B,)` class indices, to be reached; None for an untargeted attack.

        Raises:
            InputError: images outside [0, 1] or between the levels, labels or targets outside the model's
                classes, of a wrong shape or not integers, a module in train mode, answers that hold no logits.
        """
        check_images(images, self.levels)
        objective = Objective(self.model, self.gradient, self.loss, self.top_k, labels, targets, images)
        with own_modes():
            ball = SSIMBall(plain(images), self.floor, self.mean, self.window)
            run = _Run(self, ball, objective)
            runs = 1 + (self.restarts if targets is None else 0)
            for number in range(runs):
                run.restart(number)
                for step in range(self.steps):
                    if not run.advance(step):
                        break
                run.final_evaluation()
            return run.tracker.result(self.window, run.gap, self.floor, self.mean)


# An image whose loss has no gradient may have one towards another class.
_OPEN = (AttackStatus.NOT_FOUND, AttackStatus.NO_GRADIENT)


class _Run:
    """The state of one batch. Tensors hold every image; the tracker's `active` indexes those still attacked."""

    def __init__(self, attack: FrankWolfe, ball: SSIMBall, objective: Objective) -> None:
        self.attack, self.objective = attack, objective
        self.ball = ball if ball.mean is None else ball.expand(torch.zeros_like(ball.reference))
        self.tracker = Tracker(ball.reference, ball.finite)
        self.average = torch.zeros_like(ball.reference)
        self.candidate = ball.reference.clone()
        self.runners_up = torch.full_like(self.tracker.gradient_calls, -1)
        self.likely: list[list[int]] = [[] for _ in range(ball.batch)]
        self.gap = torch.full((ball.batch,), torch.nan, dtype=torch.float64, device=ball.reference.device)
        self.solution: Solution | None = None

    def restart(self, number: int) -> None:
        """Starts a run of the images that are left: the first towards any class, later ones towards a likely one."""
        if number == 0:
            return
        status = self.tracker.status
        left = [image for image, likely in enumerate(self.likely) if status[image] in _OPEN and len(likely) >= number]
        active = torch.tensor(left, dtype=torch.int64, device=self.candidate.device)
        self.tracker.active = active
        self.candidate[active] = self.ball.reference[active]
        for image in left:
            self.runners_up[image] = self.likely[image][number - 1]
        self.solution = None

    def advance(self, step: int) -> bool:
        """One gradient and one program for every active image; False when none is left."""
        images, separately = self.tracker.active, self.attack.gradient is not None
        if not len(images):
            return False
        inputs = self.candidate[images].requires_grad_(not separately)
        with torch.enable_grad():
            logits = self.objective.logits(inputs, images)
            going = self._record_outcomes(logits.detach())
            self.tracker.count_passes(images, going, separately)
            kept = self._keep(going)
            if not len(kept):
                return False
            runners_up = self.runners_up[images[kept]]
            _, gradient = self.objective.differentiate(inputs, logits, images, kept, runners_up)
        return self._step(step, gradient)

    def _step(self, step: int, gradient: Tensor) -> bool:
        """The next perturbation of the active images, from their gradients."""
        images = self.tracker.active
        finite = torch.isfinite(gradient).flatten(1).all(1)
        usable = finite & (gradient != 0).flatten(1).any(1)
        beyond = (self.candidate[images] != self.ball.reference[images]).flatten(1).any(1)
        self.tracker.record_gradients(images, usable, finite)
        kept = self._keep(usable | beyond)
        images, gradient, usable = images[kept], gradient[kept], usable[kept]
        if not len(images):
            return False
        taken = usable.reshape(-1, 1, 1, 1)
        # Of the size of the first gradient, so that a loss whose gradients vary in size is averaged over directions.
        average = self.average[images]
        linear_term = torch.where(taken, torch.lerp(average, _unit(gradient), 2 / (step + 2)), average)
        self.average[images] = linear_term
        ball = self.ball.select(images)
        warm_start = self.solution if ball.floor is not None else None
        self.solution = solve(Program(ball, linear_term), tol=self.attack.tol, warm_start=warm_start)
        self.gap[images] = self.solution.gap
        levels = self.attack.levels
        moved = quantised_optimum(ball, linear_term, self.solution.multipliers, self.solution.delta, levels)
        if not bool(usable.all()):
            halfway = (self.candidate[images] - ball.reference) / 2
            moved = torch.where(taken, moved, quantise_into_ball(ball, halfway, levels))
        self.candidate[images] = moved
        return True

    def final_evaluation(self) -> None:
        """Evaluates the last candidates, without a gradient."""
        images = self.tracker.active
        if len(images):
            logits = self.objective.logits(self.candidate[images], images)
            self.tracker.forward_calls[images] += 1
            self.tracker.active = images[self._record_outcomes(logits)]

    def _record_outcomes(self, logits: Tensor) -> Tensor:
        """Records what the model says of the active candidates; `(n,)` bool, which of them go on."""
        images = self.tracker.active
        finite, unseen = torch.isfinite(logits).all(1), self.tracker.unseen(images)
        met = self.objective.achieved(logits, images)
        margins = self.objective.margin(torch.nan_to_num(logits), images)
        costs = torch.where(finite, -margins, torch.inf)
        self.tracker.record_outcomes(images, self.candidate[images], costs, logits, met)
        if self.attack.restarts:
            for place in torch.nonzero(unseen & finite & ~met).flatten().tolist():
                image = int(images[place])
                label = int(self.objective.labels[image])
                self.likely[image] = self.objective.likely(logits[place], label, self.attack.restarts)
        return (finite | ~unseen) & ~met

    def _keep(self, going: Tensor) -> Tensor:
        """Leaves those active that go on, `(n,)` bool, and their multipliers; the places of these."""
        kept = torch.nonzero(going).flatten()
        self.tracker.active = self.tracker.active[kept]
        if self.solution is not None:
            self.solution = self.solution.select(kept)
        return kept


def _unit(gradient: Tensor) -> Tensor:
    """Gradients `(B, C, H, W)` of length 1, those too whose length a dtype's range does not hold; 0 stays 0."""
    size = gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    unknown = (size == 0) | ~torch.isfinite(size)
    if bool(unknown.any()):
        largest = gradient.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
        gradient = torch.where(unknown & (largest > 0), gradient / torch.where(largest > 0, largest, 1.0), gradient)
        size = torch.where(unknown, gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1), size)
        size = torch.where(size > 0, size, 1.0)
    return gradient / size
