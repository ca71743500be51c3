"""The smallest perceptual budget at which a saved image is misclassified."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from percep.attacks.bracket import bracket, crossing
from percep.attacks.cost import Cost, check_measure
from percep.attacks.criteria import GradientFunction
from percep.attacks.minimal_step import minimal_step, ray
from percep.attacks.objective import Objective
from percep.attacks.plans import CLASSES, FIRST, LATER, POWERS, Plan
from percep.attacks.quantisation import as_levels, quantise, to_level
from percep.attacks.result import AttackResult, AttackStatus, MinimalResult
from percep.attacks.surroundings import own_modes, plain
from percep.attacks.validation import check_images
from percep.choices import Measure
from percep.solvers.conjugate_gradients import conjugate_gradients
from percep.solvers.quadratic import WindowQuadratic, per_image
from percep.validation.class_indices import ClassIndices
from percep.validation.fields import checked
from percep.validation.scalars import require_integer
from percep.windows import Window

# A run whose best cost is above this multiple of the image's best after so many gradients is given up.
_HOPELESS, _PATIENCE = 1.3, 10
# The least share with which a new gradient enters the running average.
_LEAST_SHARE = 0.02
# A refinement goes on from the best image and its average gradient as if that were of so many gradients.
_REFINED = 5
# Share of what was missing that is asked for in addition from then on, as the model bends away from its tangents, and
# the most that is asked for, as a share of the largest margin met in the run.
_INTEGRAL, _MOST_INTEGRAL = 0.3, 0.6
# How far beyond the boundary to aim, as a share of the largest margin met in the run: on it nothing is adversarial.
_BEYOND = 1e-3
_LINEAR_STEPS = 4
# Runs without a gradient after which an image is given up that has nothing else to try.
_DEAD_ENDS = 3
# How often a perturbation without a gradient is doubled before it is halved.
_DOUBLINGS = 4
# 1 - SSIM of the first length that is tried along a caller's gradient.
_FIRST_COST = 1e-4
# A model is saturated where its tangent at an image would miss the boundary by this factor at any image in [0, 1].
_FLAT = 10.0
_CACHED = 2**19
_TINY = 1e-30


@dataclass(frozen=True)
class MinimalPerturbation:
    """Per image, the largest SSIM at which the saved image is still adversarial.

    Every step linearises the margin m at the image as saved and moves to the cheapest perturbation that reaches
    the goal according to the tangent,

        minimise <d, M d> / 2  subject to  m + <g, d - d_t> >= 0,      d = s M^-1 g

    with M the quadratic form of 1 - SSIM at d_t and g a running average of gradients (the iteration of Hasofer and
    Lind, ASCE 1974, in the metric of the paper's mean ball). The solution is brought to the pixel lattice by
    coordinate descent on the same program, so that roundings are chosen by what they do to the margin against what
    they cost. What the tangent misses is integrated and asked for in the next step, so that iterates straddle the
    boundary, and the cheapest adversarial one is the answer.

    A first run follows the runner-up class wherever it leads. Then the gradients of the most likely classes
    are taken at the reference, and runs start towards each, the cheapest by its tangent first, until the gradients
    are used up. For the worst window ("floor") the windows' weights in M are Lawson's, updated at every step.

    A model may saturate, so that a tangent leads far beyond the boundary to where no gradient is. The search then
    bisects the ray back to the reference in forward passes and goes on from the boundary; where the reference
    itself has no gradient, from an adversarial image on the way along what is left of it, to its negative, to grey or
    to noise. In the end every answer is bisected on its own ray, so that no image on it is cheaper.

    Attributes:
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits, or to probabilities, whose logarithms are
            taken; every module in it must be in eval mode. Nothing of it is changed, and it alone runs under the
            caller's `torch.autocast`.
        measure: what to keep large: the "mean" of SSIM over windows and channels, or its "floor".
        gradients: most gradients per image, each of which also judges an image; at least 1. Bisections take
            further forward passes, some ten per image.
        window: the SSIM window, `Window.gaussian()` by default.
        top_k: the label must leave the k best classes, or the target enter them.
        gradient: a function of `(images, labels, targets)` that gives `(B,)` values, which are not used, and the
            direction in which to move, `(B, C, H, W)` at any scale, instead of the model's own gradient: an ensemble,
            an expectation over transformations. `model` remains the judge, at one forward pass more per gradient; what
            a direction is worth is measured by its margin, at eight more per run.
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
        """Attacks a batch in the images' precision, under any mode of torch's; no random number is drawn.

        Images do not influence each other.

        Args:
            images: `(B, C, H, W)` float32 or float64 in [0, 1], of so many `levels` (multiples of 1/255 for 256). An
                image with NaN or infinity gets the status `not_finite`.
            labels: `(B,)` class indices, to be left: a tensor, an array or a list of integers.
            targets: `(B,)` class indices, to be reached; None for an untargeted attack.

        Raises:
            InputError: images outside [0, 1] or off the lattice of levels, labels or targets outside the model's
                classes, of a wrong shape or not integers, a module in train mode, top_k not below the number of
                classes, answers that hold no logits.
        """
        finite = check_images(images, self.levels)
        objective = Objective(self.model, self.gradient, "margin", self.top_k, labels, targets, images)
        with own_modes():
            search = _Search(self, plain(images), plain(finite), objective)
            while search.advance():
                pass
            search.finish()
            return search.result()


class _Search:
    """The state of one batch. Tensors hold every image; `active` indexes those still attacked."""

    def __init__(self, attack: MinimalPerturbation, images: Tensor, finite: Tensor, objective: Objective) -> None:
        batch, device = len(images), images.device
        self.attack, self.objective = attack, objective
        self.finite = finite
        self.reference = torch.where(finite.reshape(-1, 1, 1, 1), images, 0.0)
        self.window = Window.gaussian() if attack.window is None else attack.window
        self.cost = Cost.of_reference(self.reference, self.window, attack.measure)
        self.delta = torch.zeros_like(self.reference)
        self.average = torch.zeros_like(self.reference)
        self.direction = torch.zeros_like(self.reference)
        self.best, self.best_average = self.reference.clone(), torch.zeros_like(self.reference)
        self.best_cost = images.new_full((batch,), torch.inf)
        self.run_cost = self.best_cost.clone()
        self.shortfall, self.depth = images.new_zeros(batch), images.new_zeros(batch)
        self.step = torch.zeros(batch, dtype=torch.int64, device=device)
        self.gradient_calls, self.forward_calls = self.step.clone(), self.step.clone()
        self.before, self.after = self.step - 1, self.step - 1
        self.runner_up = self.step - 1
        self.power = images.new_full((batch,), POWERS[0])
        # Of a caller's gradient: the margin at the reference, and how much of it a unit along the average is worth.
        self.first_margin, self.slope = images.new_zeros(batch), images.new_ones(batch)
        self.status = [AttackStatus.NOT_FOUND if ok else AttackStatus.NOT_FINITE for ok in finite.tolist()]
        self.active = torch.nonzero(finite).flatten()
        # Leading one class past the label says nothing of the k best, nor of a gradient of the user's.
        self.scans = objective.targets is None and attack.gradient is None and attack.top_k == 1
        self.plans = [Plan(FIRST if self.scans else LATER) for _ in range(batch)]
        # Of images that look at an end of a bracket, whose gradient may be 0 too: the ends that are left. Else None.
        self.ends: list[list[Tensor] | None] = [None] * batch
        # The best cost when an image last lost its gradient.
        self.dead_cost = [torch.inf] * batch
        # What was tried: costs, and whether the goal was met, one entry per judged image.
        self.tried: list[list[tuple[float, bool]]] = [[] for _ in range(batch)]

    def advance(self) -> bool:
        """One gradient for every active image, and its next perturbation; False when none is left."""
        images = self.active[self.gradient_calls[self.active] < self.attack.gradients]
        own = self.attack.gradient is not None
        if not len(images):
            return False
        first = self.gradient_calls[images] == 0
        inputs = self._saved(images, self.delta[images]).requires_grad_(not own)
        with torch.enable_grad():
            logits = self.objective.logits(inputs, images)
            finite, met = self._record(images, self.delta[images], logits.detach())
            kept = torch.nonzero(finite & ~(met & first)).flatten()
            lost = torch.nonzero(~finite & ~first).flatten()
            self.forward_calls[images if own else images[~finite | (met & first)]] += 1
            if len(kept):
                values, gradient = self.objective.differentiate(
                    inputs, logits, images, kept, self.runner_up[images[kept]]
                )
        stuck, reached = images[lost], met[lost]
        self.active = images[:0]
        if len(kept):
            self.gradient_calls[images[kept]] += 1
            usable = self._usable(images[kept], values, gradient)
            self.first_margin[images[kept]] = torch.where(first[kept], values, self.first_margin[images[kept]])
            self._follow(images[kept][usable], values[usable], gradient[usable], logits.detach()[kept][usable])
            stuck, reached = torch.cat([stuck, images[kept][~usable]]), torch.cat([reached, met[kept][~usable]])
        if len(stuck):
            self.active = torch.cat([self.active, self._return(stuck, reached)]).sort().values
        return bool(len(self.active))

    def finish(self) -> None:
        """Looks at the last perturbations of the images without gradients left, and bisects every answer's ray."""
        used_up = self.gradient_calls >= self.attack.gradients
        last = torch.nonzero(used_up & (self.delta != 0).flatten(1).any(1)).flatten()
        if len(last):
            self._look(last, self.delta[last])
        improving = torch.nonzero(torch.isfinite(self.best_cost) & (self.best_cost > 0)).flatten()
        while len(improving):
            before = self.best_cost[improving]
            self._bracket(improving, self.best[improving] - self.reference[improving])
            # On the lattice the new answer's ray is another one; in floating point it is the same.
            on_lattice = self.attack.levels is not None
            improving = improving[(self.best_cost[improving] < before) & on_lattice]

    def _saved(self, images: Tensor, delta: Tensor) -> Tensor:
        """Perturbed images, as they are saved."""
        return quantise(self.reference[images] + delta, self.attack.levels)

    def _look(self, images: Tensor, delta: Tensor) -> Tensor:
        """Which perturbations are adversarial, `(n,)` bool; one forward pass, recorded."""
        logits = self.objective.logits(self._saved(images, delta), images)
        self.forward_calls[images] += 1
        return self._record(images, delta, logits)[1]

    def _record(self, images: Tensor, delta: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Records what the model says of perturbations: `(n,)` bool, whether it is finite, and the goal met."""
        finite = torch.isfinite(logits).all(1)
        prediction = torch.where(finite, torch.nan_to_num(logits).argmax(1), -1)
        met = self.objective.achieved(logits, images)
        cost = self.cost.select(images)
        candidates = self._saved(images, delta)
        costs = cost.of(cost.losses(candidates))
        better = met & (costs < self.best_cost[images])
        improved = images[better]
        self.best[improved] = candidates[better]
        self.best_average[improved] = self.average[improved]
        self.best_cost[improved], self.after[improved] = costs[better], prediction[better]
        self.run_cost[images] = torch.where(met, torch.minimum(self.run_cost[images], costs), self.run_cost[images])
        first = self.gradient_calls[images] == 0
        self.before[images] = torch.where(first, prediction, self.before[images])
        self.after[images] = torch.where(first, prediction, self.after[images])
        rows = zip(images.tolist(), finite.tolist(), met.tolist(), costs.tolist(), first.tolist(), strict=True)
        for image, ok, hit, spent, fresh in rows:
            self.tried[image].append((spent, hit))
            if fresh and not ok:
                self.status[image] = AttackStatus.NOT_FINITE
            elif hit:
                self.status[image] = AttackStatus.ALREADY_ADVERSARIAL if fresh else AttackStatus.ADVERSARIAL
        return finite, met

    def _usable(self, images: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
        """`(n,)` bool: which gradients can be followed; an image without one at its reference says why."""
        finite = torch.isfinite(gradient).flatten(1).all(1) & torch.isfinite(values)
        usable = finite & (gradient != 0).flatten(1).any(1)
        if self.attack.gradient is None:
            usable &= values.abs() <= _FLAT * gradient.abs().flatten(1).sum(1)
        for place in torch.nonzero(~usable & (self.gradient_calls[images] == 1)).flatten().tolist():
            image, known = int(images[place]), bool(finite[place])
            self.status[image] = AttackStatus.NO_GRADIENT if known else AttackStatus.NOT_FINITE
            self.average[image] = gradient[place].sign()
        return usable

    def _follow(self, images: Tensor, values: Tensor, gradient: Tensor, logits: Tensor) -> None:
        """The next perturbations of images with a gradient, and of these the ones that go on."""
        self.active = images
        size = max(1, _CACHED // self.reference[0].numel()) if images.device.type == "cpu" else max(1, len(images))
        for part in torch.arange(len(images), device=images.device).split(size):
            self._move(images[part], values[part], gradient[part])
        for place, image in enumerate(images.tolist()):
            self.ends[image] = None
            self._schedule(image, logits[place])

    def _move(self, images: Tensor, values: Tensor, gradient: Tensor) -> None:
        """The next perturbation of some images: the cheapest that reaches the goal by the tangent."""
        cost, delta = self.cost.select(images), self.delta[images]
        self.step[images] += 1
        share = (self.step[images].to(delta.dtype) ** -self.power[images]).clamp_min(_LEAST_SHARE).reshape(-1, 1, 1, 1)
        average = torch.lerp(self.average[images], gradient, share)
        quadratic = cost.quadratic(delta)
        solved, _ = conjugate_gradients(
            quadratic.product, quadratic.preconditioner, average, 1e-2, _LINEAR_STEPS, x0=self.direction[images]
        )
        self.average[images], self.direction[images] = average, solved
        linear_term, direction = average, solved
        if self.attack.gradient is not None:
            slope = self._measured_slope(images, values, quadratic).reshape(-1, 1, 1, 1)
            linear_term, direction = slope * average, slope * solved
        # A run that starts beyond the boundary has nothing to take back: its first tangent will.
        fresh = (self.shortfall[images] == 0) & (values > 0)
        counted = torch.where(fresh, 0.0, values)
        self.depth[images] = torch.maximum(self.depth[images], values.abs())
        most = _MOST_INTEGRAL * self.depth[images]
        shortfall = (self.shortfall[images] - _INTEGRAL * counted).clamp(-most, most)
        gained = per_image(linear_term * delta).flatten()
        needed = gained - values + shortfall + _BEYOND * self.depth[images]
        needed = torch.maximum(needed, 0.3 * gained.abs())
        moved = minimal_step(quadratic, linear_term, direction, needed, cost.reference, self.attack.levels)
        if self.attack.measure == "floor":
            reweighted = cost.reweight(cost.losses(cost.reference + moved))
            self.cost = self.cost.with_weights_of(images, reweighted)
        self.shortfall[images], self.delta[images] = shortfall, moved

    def _measured_slope(self, images: Tensor, values: Tensor, quadratic: WindowQuadratic) -> Tensor:
        """How much of the model's margin a caller's direction is worth, `(n,)`: the secant from the reference.

        At the reference itself the margin is measured along the ray, in forward passes.
        """
        average, delta = self.average[images], self.delta[images]
        slope, base = self.slope[images], self.first_margin[images]
        gained = per_image(average * delta).flatten()
        secant = (values - base) / gained
        slope = torch.where((gained > 0) & (secant > 0) & torch.isfinite(secant), secant, slope)
        starting = torch.nonzero((delta == 0).flatten(1).all(1)).flatten()
        if len(starting):
            target = ray(quadratic, average, self.direction[images], self.attack.levels)[starting]
            worth = per_image(average[starting] * target).clamp_min(_TINY)
            target = target * (2 * _FIRST_COST / worth).sqrt()
            begun = images[starting]
            crossed = crossing(
                target,
                self.reference[begun],
                self.attack.levels,
                lambda places, tried: self._look(begun[places], tried),
            )
            reach = per_image(average[starting] * crossed).flatten()
            measured = -base[starting] / reach
            slope[starting] = torch.where((measured > 0) & torch.isfinite(measured), measured, slope[starting])
        self.slope[images] = slope
        return slope

    def _bracket(self, images: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The two sides of the boundary on the rays of adversarial perturbations, by bisection."""
        return bracket(
            delta,
            self.reference[images],
            self.attack.levels,
            lambda places, tried: self._look(images[places], tried),
        )

    def _return(self, images: Tensor, met: Tensor) -> Tensor:
        """Where to look next for images that have no gradient where they are; those that go on.

        An adversarial one goes back to the boundary, there first to the adversarial side, then to the other; one that
        is not goes beyond the boundary if it lies ahead, or back halfway. Where the reference has no gradient,
        adversarial images are looked for.
        """
        left = self.gradient_calls[images] < self.attack.gradients
        images, met = images[left], met[left]
        beyond = (self.delta[images] != 0).flatten(1).any(1)
        started = self.gradient_calls[images] == 1
        at_end = met.new_tensor([self.ends[image] is not None for image in images.tolist()])
        going = self._starts(images[~beyond & started]).tolist()
        hit, missed = images[beyond & ~at_end & met], images[beyond & ~at_end & ~met]
        farther = self.delta[missed]
        for _ in range(_DOUBLINGS):
            if not len(missed):
                break
            farther = to_level(2 * farther, self.reference[missed], self.attack.levels)
            crossed = self._look(missed, farther)
            self.delta[missed[crossed]] = farther[crossed]
            hit = torch.cat([hit, missed[crossed]])
            missed, farther = missed[~crossed], farther[~crossed]
        if len(hit):
            going += hit.tolist()
            for image, outer, inner in zip(hit.tolist(), *self._bracket(hit, self.delta[hit]), strict=True):
                self._begin(image, outer, inner)
        self.delta[missed] = to_level(self.delta[missed] / 2, self.reference[missed], self.attack.levels)
        going += [i for i in missed.tolist() if bool((self.delta[i] != 0).any()) or self._give_up(i)]
        for image in images[beyond & at_end].tolist():
            if ends := self.ends[image]:
                self._begin(image, ends[0])
                going.append(image)
            elif self._give_up(image):
                going.append(image)
        going += [i for i in images[~beyond & ~started].tolist() if self._give_up(i)]
        return torch.tensor(sorted(going), dtype=torch.int64, device=images.device)

    def _starts(self, images: Tensor) -> Tensor:
        """Images whose reference has no gradient, but that have an adversarial image to go on from."""
        found = []
        images = images[[self.status[image] is AttackStatus.NO_GRADIENT for image in images.tolist()]]
        for start in (_corner, _negative, _grey, _noise):
            if not len(images):
                break
            reference = self.reference[images]
            started = start(reference, self.average[images])
            delta = to_level(started - reference, reference, self.attack.levels)
            logits = self.objective.logits(self._saved(images, delta), images)
            self.forward_calls[images] += 1
            met = self.objective.achieved(logits, images)
            hit = images[met]
            if len(hit):
                self._record(hit, delta[met], logits[met])
                for image, outer, inner in zip(hit.tolist(), *self._bracket(hit, delta[met]), strict=True):
                    self._begin(image, outer, inner)
                found.append(hit)
            images = images[~met]
        return torch.cat(found) if found else images[:0]

    def _begin(self, image: int, delta: Tensor, *ends: Tensor) -> None:
        """Goes on from an end of a bracket; `ends` are looked at where it has no gradient."""
        for state in (self.average, self.direction, self.shortfall, self.depth, self.step):
            state[image] = 0
        self.delta[image] = delta
        self.ends[image] = [end for end in ends if bool((end != 0).any())]

    def _give_up(self, image: int) -> bool:
        """Ends a run that has no gradient left; False where there is nothing else to try."""
        plan, best = self.plans[image], float(self.best_cost[image])
        if plan.scanned:
            plan.scanned.pop(0)
            self._scan(image, plan)
            return True
        plan.dead_ends = 1 if best < self.dead_cost[image] else plan.dead_ends + 1
        self.dead_cost[image] = best
        if plan.dead_ends >= _DEAD_ENDS and not plan.queue:
            return False
        self._next(image, plan)
        return True

    def _schedule(self, image: int, logits: Tensor) -> None:
        """Ends an image's run where it is over, and starts its next one."""
        plan, step = self.plans[image], int(self.step[image])
        if self.scans and not plan.classes:
            plan.classes = self.objective.likely(logits, int(self.objective.labels[image]), CLASSES)
        best, run = float(self.best_cost[image]), float(self.run_cost[image])
        if plan.scanned:  # one step towards a class has just been taken, which tells its cost by the tangent
            cost = self.cost.select(torch.tensor([image], device=self.active.device))
            spent = cost.of(cost.losses(cost.reference + self.delta[image]))
            plan.costs[plan.scanned.pop(0)] = float(spent)
            self._scan(image, plan)
        elif step >= plan.length or (plan.runs > 0 and step >= _PATIENCE and run > _HOPELESS * best):
            self._next(image, plan)

    def _scan(self, image: int, plan: Plan) -> None:
        """Looks at the next of the likely classes, or starts the runs towards them after the last."""
        if plan.scanned:
            self._restart(image, plan.scanned[0], POWERS[0])
        else:
            plan.rank(float(self.best_cost[image]))
            self._next(image, plan)

    def _next(self, image: int, plan: Plan) -> None:
        plan.runs += 1
        plan.length = LATER
        if plan.runs == 1 and len(plan.classes) > 1:
            plan.scanned = list(plan.classes)
            self._restart(image, plan.scanned[0], POWERS[0])
        elif plan.queue:
            self._restart(image, *plan.queue.pop(0))
        else:
            self._restart(image, -1, POWERS[0])
            if bool(torch.isfinite(self.best_cost[image])):
                self.delta[image] = self.best[image] - self.reference[image]
                self.average[image] = self.best_average[image]
                self.step[image] = _REFINED

    def _restart(self, image: int, runner_up: int, power: float) -> None:
        for state in (self.delta, self.average, self.direction, self.shortfall, self.depth, self.step):
            state[image] = 0
        self.runner_up[image], self.power[image] = runner_up, power
        self.run_cost[image] = torch.inf
        self.ends[image] = None

    def result(self) -> MinimalResult:
        measured = AttackResult.measured(
            self.reference,
            self.best,
            self.status,
            finite=self.finite,
            labels_before=self.before,
            labels_after=self.after,
            gradient_calls=self.gradient_calls,
            forward_calls=self.forward_calls,
            window=self.window,
        )
        kept = measured.mean_ssim if self.attack.measure == "mean" else measured.min_ssim
        found = torch.where(measured.success, kept, torch.nan)
        missed = torch.where(self.finite, 1 - self._missed(), torch.nan)
        # Costs are compared in the images' dtype, so the two may meet.
        return MinimalResult(**vars(measured), found=found, missed=torch.fmax(missed, found))

    def _missed(self) -> Tensor:
        """The largest cost below that of the answer at which the goal was not met, `(B,)` float64."""
        best = self.best_cost.tolist()
        missed = [
            max((cost for cost, met in tried if not met and cost < limit), default=0.0)
            for tried, limit in zip(self.tried, best, strict=True)
        ]
        return torch.tensor(missed, dtype=torch.float64, device=self.reference.device)


def _corner(reference: Tensor, sign: Tensor) -> Tensor:
    """As far as the pixel range allows in the signs of a gradient that is too small to be measured by."""
    return torch.where(sign > 0, 1.0, torch.where(sign < 0, 0.0, reference))


def _negative(reference: Tensor, _: Tensor) -> Tensor:
    return 1 - reference


def _grey(reference: Tensor, _: Tensor) -> Tensor:
    return torch.full_like(reference, 0.5)


def _noise(reference: Tensor, _: Tensor) -> Tensor:
    """The same uniform noise for every image, whatever the global generator."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(reference.shape[1:], generator=generator, dtype=reference.dtype)
    return noise.to(reference.device).expand_as(reference)
