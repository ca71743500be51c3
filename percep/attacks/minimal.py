"""The smallest perceptual budget at which a saved image is misclassified."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from percep.attacks.cost import Cost, check_measure
from percep.attacks.criteria import GradientFunction
from percep.attacks.network import own_modes, plain
from percep.attacks.objective import Objective
from percep.attacks.quantisation import as_levels
from percep.attacks.result import MinimalResult
from percep.attacks.search.batch import Search
from percep.attacks.search.lost_gradients import resume
from percep.attacks.validation import check_images
from percep.choices import Measure
from percep.validation.class_indices import ClassIndices
from percep.validation.fields import checked
from percep.validation.scalars import require_integer
from percep.windows import Window


@dataclass(frozen=True)
class MinimalPerturbation:
    """Per image, the largest SSIM at which the saved image is still adversarial.

    Every step linearises the margin m at the image as saved and moves to the cheapest perturbation that reaches
    the goal according to the tangent,

        minimise <d, M d> / 2  subject to  m + <g, d - d_t> >= 0,      d = s M^-1 g

    with M the quadratic form of 1 - SSIM at d_t and g a running average of gradients (the iteration of Hasofer and
    Lind, ASCE 1974, in the metric of the paper's mean ball). The solution is rounded to grey levels by
    coordinate descent on the same program, so that each rounding trades its effect on the margin against its cost.
    The error of the tangent is accumulated and added to the next step's goal (integral control), so that iterates
    straddle the boundary; the cheapest adversarial one is the result.

    A first run targets the runner-up class of each iterate. Then the gradients of the most likely classes
    are taken at the reference, and runs start towards each, the cheapest by its tangent first, until the gradients
    are used up. For the worst window ("floor") the windows' weights in M are Lawson's, updated at every step.

    A model may saturate, so that a tangent leads far beyond the boundary to where the gradient is 0. The search then
    bisects the ray back to the reference with forward passes and continues from the boundary. If the gradient is 0 or
    tiny at the reference itself, it looks for an adversarial image in the direction of the gradient's signs, of the
    negative, of grey and of noise, and continues from there. In the end the ray of every result is bisected, so that no
    cheaper adversarial image is left on it.

    Attributes:
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits, or to probabilities, whose logarithms are
            taken; every module in it must be in eval mode. It is not changed, and only it runs under the
            caller's `torch.autocast`.
        measure: what to maximise: the "mean" of SSIM over windows and channels, or its "floor".
        gradients: the most gradients per image, each of which also evaluates an image; at least 1. Bisections take
            about ten further forward passes per image.
        window: the SSIM window, `Window.gaussian()` by default.
        top_k: the label must leave the k best classes, or the target enter them.
        gradient: a function of `(images, labels, targets)` that gives `(B,)` values, which are not used, and the
            direction in which to move, `(B, C, H, W)` at any scale, instead of the model's own gradient: of an
            ensemble, say, or an expectation over transformations. Success is still evaluated on `model`, with one more
            forward pass per gradient; the margin's slope along a direction is measured with eight more per run.
        levels: grey levels of the images: 256 for files of 8 bits, 65536 for 16 bits, any other integer from 2 on, or
            None for images in floating point.
    """

    model: Callable[[Tensor], Any]
    measure: Measure = "mean"
    gradients: int = checked(200, partial(require_integer, least=1))
    window: Window | None = None
    top_k: int = checked(1, partial(require_integer, least=1))
    gradient: GradientFunction | None = None
    levels: int | None = checked(256, as_levels)

    def __post_init__(self) -> None:
        check_measure(self.measure)

    def __call__(self, images: Tensor, labels: ClassIndices, targets: ClassIndices | None = None) -> MinimalResult:
        """Attacks a batch in the images' precision, under any mode of torch; draws no random numbers.

        Images do not influence each other.

        Args:
            images: `(B, C, H, W)` float32 or float64 in [0, 1], on the grid of `levels` (multiples of 1/255 for 256).
                An image with NaN or infinity gets the status `not_finite`.
            labels: `(B,)` class indices to be left: a tensor, an array or a list of integers.
            targets: `(B,)` class indices to be reached; None for an untargeted attack.

        Raises:
            InputError: images outside [0, 1] or between the levels, labels or targets outside the model's
                classes, of a wrong shape or not integers, a module in train mode, top_k not below the number of
                classes, outputs without logits.
        """
        finite = check_images(images, self.levels)
        objective = Objective(self.model, self.gradient, "margin", self.top_k, labels, targets, images)
        with own_modes():
            finite = plain(finite)
            reference = torch.where(finite.reshape(-1, 1, 1, 1), plain(images), 0.0)
            window = Window.gaussian() if self.window is None else self.window
            cost = Cost.of_reference(reference, window, self.measure)
            search = Search(cost, finite, objective, self.gradients, self.levels)
            while len(unfinished := search.unfinished()):
                tangents = search.linearise(unfinished)
                search.step(tangents)
                resumed = resume(search, tangents.without_gradient, tangents.without_gradient_adversarial)
                search.tracker.active = torch.cat([tangents.images, resumed]).sort().values
            search.final_evaluation()
            return search.result()
