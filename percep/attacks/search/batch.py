"""A batch's search for the smallest perturbations: its state, and the operations on some of the images."""

from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor

from percep.attacks.cost import Cost
from percep.attacks.objective import Objective
from percep.attacks.quantisation import quantise
from percep.attacks.result import MinimalResult
from percep.attacks.search.bisection import bracket_boundary
from percep.attacks.search.gradient_scale import GradientScale
from percep.attacks.search.schedule import POWERS, Run, Schedule
from percep.attacks.search.state import RunState
from percep.attacks.search.step import average_gradient, move_to_boundary
from percep.attacks.tracker import Tracker

# How many classes are scanned.
_CLASSES = 8
# A refinement continues from the best image and its average gradient, which counts as one of so many gradients.
_REFINED = 5
# A model is saturated where its tangent at an image would miss the boundary by this factor at any image in [0, 1].
_FLAT = 10.0
# Numbers in the images that a CPU steps together, so that they stay in its cache.
_CACHED = 2**19


class Tangents(NamedTuple):
    """The model's margins near the current perturbations of some images.

    Attributes:
        images: indices `(n,)` of those with a gradient to follow.
        margins, gradients, logits: of these, `(n,)`, `(n, C, H, W)` and `(n, K)`.
        without_gradient: indices `(m,)` of those without one.
        without_gradient_adversarial: `(m,)` bool, which of these are adversarial.
    """

    images: Tensor
    margins: Tensor
    gradients: Tensor
    logits: Tensor
    without_gradient: Tensor
    without_gradient_adversarial: Tensor


class Search:
    """The search of a batch. `images` are always indices `(n,)` into the batch.

    Args:
        cost: of the references, 0 where they are not finite.
        finite: `(B,)` bool, which are.
        objective: of the batch.
        gradients: most gradients per image.
        levels: as in `quantise`.

    Attributes:
        tracker: the best so far.
        state: of the current runs.
        schedules: one per image.
        bracket_ends: per image at one end of a bracket of the boundary, the ends that are left to be tried if the
            gradient is 0 there. None for the others.
    """

    def __init__(self, cost: Cost, finite: Tensor, objective: Objective, gradients: int, levels: int | None) -> None:
        self.cost, self.objective, self.gradients, self.levels = cost, objective, gradients, levels
        self.reference, batch = cost.reference, len(finite)
        self.tracker = Tracker(self.reference, finite)
        self.state = RunState.at_reference(self.reference, POWERS[0])
        self.run_cost = self.tracker.best_cost.clone()
        self.best_average = torch.zeros_like(self.reference)
        self.scale = None if objective.custom_gradient is None else GradientScale(self.reference, levels)
        # Scanning tells nothing about the k best classes, nor about a gradient of the caller's.
        self.scans = objective.targets is None and objective.custom_gradient is None and objective.top_k == 1
        self.schedules = [Schedule(self.scans) for _ in range(batch)]
        self.bracket_ends: list[list[Tensor] | None] = [None] * batch
        # Per image, the costs that were tried, and whether the goal was met.
        self.tried: list[list[tuple[float, bool]]] = [[] for _ in range(batch)]

    def unfinished(self) -> Tensor:
        """The active images with gradients left."""
        active = self.tracker.active
        return active[self.tracker.gradient_calls[active] < self.gradients]

    def linearise(self, images: Tensor) -> Tangents:
        """The tangents at the images as they are saved, one gradient each; successes at the reference have none."""
        separately, unseen = self.objective.custom_gradient is not None, self.tracker.unseen(images)
        inputs = self._saved(images, self.state.delta[images]).requires_grad_(not separately)
        with torch.enable_grad():
            logits = self.objective.logits(inputs, images)
            finite, met = self.record_outcomes(images, self.state.delta[images], logits.detach())
            differentiated = finite & ~(met & unseen)
            self.tracker.count_passes(images, differentiated, separately)
            kept, not_finite = torch.nonzero(differentiated).flatten(), torch.nonzero(~finite & ~unseen).flatten()
            runners_up = self.state.runner_up[images[kept]]
            margins, gradients = logits.new_zeros(0), inputs[kept]
            if len(kept):
                margins, gradients = self.objective.differentiate(inputs, logits, images, kept, runners_up)
        followed, logits = images[kept], logits.detach()[kept]
        if self.scale is not None:
            self.scale.record_first(followed[unseen[kept]], margins[unseen[kept]])
        usable = self._usable(followed, margins, gradients)
        return Tangents(
            followed[usable],
            margins[usable],
            gradients[usable],
            logits[usable],
            without_gradient=torch.cat([images[not_finite], followed[~usable]]),
            without_gradient_adversarial=torch.cat([met[not_finite], met[kept][~usable]]),
        )

    def step(self, tangents: Tangents) -> None:
        """Moves images along their tangents, and starts the next runs of those whose current ones are over."""
        images = tangents.images
        size = max(1, _CACHED // self.reference[0].numel()) if images.device.type == "cpu" else max(1, len(images))
        for part in torch.arange(len(images), device=images.device).split(size):
            self._move(images[part], tangents.margins[part], tangents.gradients[part])
        for image, logits in zip(images.tolist(), tangents.logits, strict=True):
            self.bracket_ends[image] = None
            self._follow_schedule(image, logits)

    def evaluate(self, images: Tensor, delta: Tensor) -> Tensor:
        """The logits `(n, K)` of perturbations; one forward pass."""
        logits = self.objective.logits(self._saved(images, delta), images)
        self.tracker.forward_calls[images] += 1
        return logits

    def is_adversarial(self, images: Tensor, delta: Tensor) -> Tensor:
        """Which perturbations are adversarial, `(n,)` bool; one forward pass, recorded."""
        return self.record_outcomes(images, delta, self.evaluate(images, delta))[1]

    def record_outcomes(self, images: Tensor, delta: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Records what the model says of perturbations: `(n,)` bool, whether it is finite, and the goal met."""
        met = self.objective.achieved(logits, images)
        cost, candidates = self.cost.select(images), self._saved(images, delta)
        costs = cost.of(cost.losses(candidates))
        adversarial_costs = torch.where(met, costs, torch.inf)
        better = images[self.tracker.record_outcomes(images, candidates, adversarial_costs, logits, met)]
        self.best_average[better] = self.state.average[better]
        self.run_cost[images] = torch.minimum(self.run_cost[images], adversarial_costs)
        for image, spent, successful in zip(images.tolist(), costs.tolist(), met.tolist(), strict=True):
            self.tried[image].append((spent, successful))
        return torch.isfinite(logits).all(1), met

    def bracket(self, images: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The two sides of the boundary on the rays of adversarial perturbations, by bisection."""
        return bracket_boundary(
            delta,
            self.reference[images],
            self.levels,
            lambda places, tried: self.is_adversarial(images[places], tried),
        )

    def begin_at(self, image: int, delta: Tensor, other_ends: list[Tensor]) -> None:
        """Continues at an end of a bracket; the other ends are tried if the gradient is 0 there."""
        self.state.zero(image)
        self.state.delta[image] = delta
        self.bracket_ends[image] = [end for end in other_ends if bool((end != 0).any())]

    def leave_dead_end(self, image: int) -> bool:
        """Ends a run without a gradient; False if no further run is worthwhile."""
        run = self.schedules[image].leave_dead_end(float(self.tracker.best_cost[image]))
        if run is not None:
            self._restart(image, run)
        return run is not None

    def final_evaluation(self) -> None:
        """Evaluates the last perturbation of images without gradients left, and bisects the ray of every result."""
        tracker, delta = self.tracker, self.state.delta
        used_up = tracker.gradient_calls >= self.gradients
        last = torch.nonzero(used_up & (delta != 0).flatten(1).any(1)).flatten()
        if len(last):
            self.is_adversarial(last, delta[last])
        improving = torch.nonzero(torch.isfinite(tracker.best_cost) & (tracker.best_cost > 0)).flatten()
        while len(improving):
            before = tracker.best_cost[improving]
            self.bracket(improving, tracker.best[improving] - self.reference[improving])
            # On grey levels the new result lies on another ray; in floating point on the same.
            rounded = self.levels is not None
            improving = improving[(tracker.best_cost[improving] < before) & rounded]

    def result(self) -> MinimalResult:
        """The best images, and the largest costs below theirs at which nothing was found."""
        measured = self.tracker.result(self.cost.view.window)
        kept = measured.mean_ssim if self.cost.measure == "mean" else measured.min_ssim
        found = torch.where(measured.success, kept, torch.nan)
        missed = [
            max((cost for cost, met in tried if not met and cost < limit), default=0.0)
            for tried, limit in zip(self.tried, self.tracker.best_cost.tolist(), strict=True)
        ]
        least = 1 - torch.tensor(missed, dtype=torch.float64, device=found.device)
        least = torch.where(self.tracker.finite, least, torch.nan)
        # Costs are compared in the images' dtype, so the two may meet.
        values = {field.name: getattr(measured, field.name) for field in fields(measured)}
        return MinimalResult(**values, found=found, missed=torch.fmax(least, found))

    def _saved(self, images: Tensor, delta: Tensor) -> Tensor:
        """Perturbed images, as they are saved."""
        return quantise(self.reference[images] + delta, self.levels)

    def _usable(self, images: Tensor, margins: Tensor, gradients: Tensor) -> Tensor:
        """`(n,)` bool: which gradients can be followed. The signs of one that cannot at a reference are kept."""
        finite = torch.isfinite(gradients).flatten(1).all(1) & torch.isfinite(margins)
        usable = finite & (gradients != 0).flatten(1).any(1)
        if self.scale is None:
            usable &= margins.abs() <= _FLAT * gradients.abs().flatten(1).sum(1)
        self.tracker.record_gradients(images, usable, finite)
        at_reference = ~usable & (self.tracker.gradient_calls[images] == 1)
        self.state.average[images[at_reference]] = gradients[at_reference].sign()
        return usable

    def _move(self, images: Tensor, margins: Tensor, gradients: Tensor) -> None:
        """The next perturbation of some images: the cheapest that reaches the goal by the tangent."""
        cost, state = self.cost.select(images), self.state.select(images)
        quadratic = cost.quadratic(state.delta)
        state, slope = average_gradient(state, gradients, quadratic), None
        if self.scale is not None:
            self.state.update(images, state)  # an image evaluated by `measure` may be the best so far
            slope = self.scale.measure(
                images, state, margins, quadratic, lambda at, tried: self.is_adversarial(images[at], tried)
            )
        state = move_to_boundary(state, margins, slope, quadratic, cost.reference, self.levels)
        self.state.update(images, state)
        if self.cost.measure == "floor":
            reweighted = cost.reweight(cost.losses(cost.reference + state.delta))
            self.cost = self.cost.with_weights_of(images, reweighted)

    def _follow_schedule(self, image: int, logits: Tensor) -> None:
        """Starts an image's next run if the current one is over."""
        schedule, best_cost = self.schedules[image], float(self.tracker.best_cost[image])
        if self.scans and not schedule.likely:
            schedule.likely = self.objective.likely(logits, int(self.objective.labels[image]), _CLASSES)
        if schedule.is_over(int(self.state.steps[image]), float(self.run_cost[image]), best_cost):
            tangent_cost = self._current_cost(image) if schedule.run.scans else None
            self._restart(image, schedule.advance(best_cost, tangent_cost))

    def _current_cost(self, image: int) -> float:
        cost = self.cost.select(torch.tensor([image], device=self.reference.device))
        return float(cost.of(cost.losses(cost.reference + self.state.delta[image])))

    def _restart(self, image: int, run: Run) -> None:
        """Starts a run: at the reference, or at the image's best perturbation to refine it."""
        state = self.state
        state.zero(image)
        state.runner_up[image], state.power[image] = run.runner_up, run.power
        self.run_cost[image], self.bracket_ends[image] = torch.inf, None
        if run.refines and bool(torch.isfinite(self.tracker.best_cost[image])):
            state.delta[image] = self.tracker.best[image] - self.reference[image]
            state.average[image] = self.best_average[image]
            state.steps[image] = _REFINED
