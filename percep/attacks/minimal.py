"""The smallest perceptual budget at which a saved image is misclassified."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from percep.attacks.cost import Cost, Measure, check_measure
from percep.attacks.criteria import GradientFunction
from percep.attacks.inputs import check_images
from percep.attacks.lattice import descend, quantise, to_level
from percep.attacks.objective import Objective
from percep.attacks.result import AttackResult, AttackStatus, MinimalResult
from percep.errors import InputError
from percep.solvers.conjugate_gradients import conjugate_gradients
from percep.solvers.quadratic import WindowQuadratic, per_image
from percep.windows import Window

# Gradients of the first run, of each later one, and how many classes are looked at in between.
_FIRST, _LATER, _CLASSES = 12, 28, 8
# A run whose best cost is above this multiple of the image's best after so many gradients is given up.
_HOPELESS, _PATIENCE = 1.3, 10
# A new gradient enters the running average with the share (steps in the run)^-power, at least the least share. The
# average settles; with the smaller power it forgets the gradients far from the boundary and may settle elsewhere.
_POWERS, _LEAST_SHARE = (1.0, 0.6), 0.02
# A refinement goes on from the best image and its average gradient as if that were of so many gradients.
_REFINED = 5
# Share of what was missing that is asked for in addition from then on, as the model bends away from its tangents, and
# the most that is asked for, as a share of the largest margin met in the run.
_INTEGRAL, _MOST_INTEGRAL = 0.3, 0.6
# How far beyond the boundary to aim, as a share of the largest margin met in the run: on it nothing is adversarial.
_BEYOND = 1e-3
_LINEAR_STEPS, _BISECTIONS = 4, 14
# By how much a perturbation is stretched until it reaches the goal after rounding, and how often.
_STRETCH, _STRETCHES = 4.0, 6
# Classes whose tangents ask for this multiple of the best cost are not worth a run.
_DEAR = 3.0
# Descent may give up this share of the gain; of a perturbation of a few pixels it would take all.
_LEAST_GAIN = 0.9
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

    Attributes:
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits; a module must be in eval mode.
        measure: what to keep large: the "mean" of SSIM over windows and channels, or its "floor".
        gradients: most gradients per image, each of which also judges an image; at least 1.
        window: the SSIM window, `Window.gaussian()` by default.
        top_k: the label must leave the k best classes, or the target enter them.
        gradient: a function of `(images, labels, targets)` that gives a margin `(B,)`, positive where the goal is
            met, and its gradient, instead of the model's own: an ensemble, an expectation over
            transformations. `model` remains the judge, at one forward pass more per gradient.
        eight_bit: judge and return multiples of 1/255; False searches images in floating point, for comparison.
    """

    model: Callable[[Tensor], Tensor]
    measure: Measure = "mean"
    gradients: int = 200
    window: Window | None = None
    top_k: int = 1
    gradient: GradientFunction | None = None
    eight_bit: bool = True

    def __post_init__(self) -> None:
        check_measure(self.measure)
        for name, value in (("gradients", self.gradients), ("top_k", self.top_k)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")

    def __call__(self, images: Tensor, labels: Tensor, targets: Tensor | None = None) -> MinimalResult:
        """Attacks a batch; images do not influence each other.

        Args:
            images: `(B, C, H, W)` floating point in [0, 1], multiples of 1/255 unless `eight_bit` is False. An
                image with NaN or infinity gets the status `not_finite`.
            labels: `(B,)` int64 class indices, to be left.
            targets: `(B,)` int64 class indices, to be reached; None for an untargeted attack.

        Raises:
            InputError: images outside [0, 1] or off the 8-bit lattice, labels or targets outside the model's
                classes or of a wrong shape, a module in train mode, top_k not below the number of classes.
        """
        finite = check_images(images, self.eight_bit)
        objective = Objective(self.model, self.gradient, "margin", self.top_k, labels, targets, images)
        search = _Search(self, images, finite, objective)
        while search.advance():
            pass
        search.judge()
        return search.result()


class _Search:
    """The state of one batch. Tensors hold every image; `active` indexes those still attacked."""

    def __init__(self, attack: MinimalPerturbation, images: Tensor, finite: Tensor, objective: Objective) -> None:
        batch, device = len(images), images.device
        self.attack, self.objective = attack, objective
        self.finite = finite
        self.reference = torch.where(finite.reshape(-1, 1, 1, 1), images.detach(), 0.0)
        self.window = Window.gaussian() if attack.window is None else attack.window
        self.cost = Cost(self.reference, self.window, attack.measure)
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
        self.rival = self.step - 1
        self.power = images.new_full((batch,), _POWERS[0])
        self.status = [AttackStatus.NOT_FOUND if ok else AttackStatus.NOT_FINITE for ok in finite.tolist()]
        self.active = torch.nonzero(finite).flatten()
        # Leading one class past the label says nothing of the k best, nor of a gradient of the user's.
        self.scans = objective.targets is None and attack.gradient is None and attack.top_k == 1
        self.plans = [_Plan(_FIRST if self.scans else _LATER) for _ in range(batch)]
        # What was tried: costs, and whether the goal was met, one entry per judged image.
        self.tried: list[list[tuple[float, bool]]] = [[] for _ in range(batch)]

    def advance(self) -> bool:
        """One gradient for every active image, and its next perturbation; False when none is left."""
        images = self.active[self.gradient_calls[self.active] < self.attack.gradients]
        own = self.attack.gradient is not None
        if not len(images):
            return False
        inputs = self._candidates(images).requires_grad_(not own)
        with torch.enable_grad():
            logits = self.objective.logits(inputs, images)
            going = self._settle(images, logits.detach())
            kept = torch.nonzero(going).flatten()
            self.forward_calls[images if own else images[~going]] += 1
            if not len(kept):
                self.active = images[kept]
                return False
            values, gradient = self.objective.differentiate(inputs, logits, images, kept, self.rival[images[kept]])
        images, logits = images[kept], logits.detach()[kept]
        self.gradient_calls[images] += 1
        kept = self._usable(images, values, gradient)
        self.active, values, gradient, logits = images[kept], values[kept], gradient[kept], logits[kept]
        size = max(1, _CACHED // inputs[0].numel()) if inputs.device.type == "cpu" else len(images)
        for part in torch.arange(len(kept), device=kept.device).split(size):
            self._move(self.active[part], values[part], gradient[part])
        for place, image in enumerate(self.active.tolist()):
            self._schedule(image, logits[place])
        return bool(len(self.active))

    def judge(self) -> None:
        """Looks at the last perturbations of the images that have used their gradients up."""
        used_up = self.gradient_calls >= self.attack.gradients
        last = torch.nonzero(used_up & (self.delta != 0).flatten(1).any(1)).flatten()
        if not len(last):
            return
        with torch.no_grad():
            logits = self.objective.logits(self._candidates(last), last)
        self.forward_calls[last] += 1
        self._settle(last, logits)

    def _candidates(self, images: Tensor) -> Tensor:
        """The perturbed images, as they are saved."""
        candidates = self.reference[images] + self.delta[images]
        return quantise(candidates) if self.attack.eight_bit else candidates.clamp(0, 1)

    def _settle(self, images: Tensor, logits: Tensor) -> Tensor:
        """Records what the model says of the current perturbations; which images go on."""
        finite = torch.isfinite(logits).all(1)
        prediction = torch.where(finite, torch.nan_to_num(logits).argmax(1), -1)
        met = self.objective.achieved(logits, images)
        cost = self.cost.select(images)
        candidates = self._candidates(images)
        price = cost.of(cost.losses(candidates))
        better = met & (price < self.best_cost[images])
        improved = images[better]
        self.best[improved] = candidates[better]
        self.best_average[improved] = self.average[improved]
        self.best_cost[improved], self.after[improved] = price[better], prediction[better]
        self.run_cost[images] = torch.where(met, torch.minimum(self.run_cost[images], price), self.run_cost[images])
        first = self.gradient_calls[images] == 0
        self.before[images] = torch.where(first, prediction, self.before[images])
        self.after[images] = torch.where(first, prediction, self.after[images])
        rows = zip(images.tolist(), finite.tolist(), met.tolist(), price.tolist(), first.tolist(), strict=True)
        for image, ok, hit, spent, fresh in rows:
            self.tried[image].append((spent, hit))
            if not ok and self.status[image] is AttackStatus.NOT_FOUND:
                self.status[image] = AttackStatus.NOT_FINITE
            elif hit:
                self.status[image] = AttackStatus.ALREADY_ADVERSARIAL if fresh else AttackStatus.ADVERSARIAL
        return finite & ~(met & first)

    def _usable(self, images: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
        """Places of the gradients that can be followed; an image without one that has found nothing says why."""
        finite = torch.isfinite(gradient).flatten(1).all(1) & torch.isfinite(values)
        moving = (gradient != 0).flatten(1).any(1)
        for place in torch.nonzero(~(finite & moving)).flatten().tolist():
            image = int(images[place])
            if self.status[image] is AttackStatus.NOT_FOUND:
                self.status[image] = AttackStatus.NO_GRADIENT if bool(finite[place]) else AttackStatus.NOT_FINITE
        return torch.nonzero(finite & moving).flatten()

    def _move(self, images: Tensor, values: Tensor, gradient: Tensor) -> None:
        """The next perturbation of some images: the cheapest that reaches the goal by the tangent."""
        cost, delta = self.cost.select(images), self.delta[images]
        self.step[images] += 1
        share = (self.step[images].to(delta.dtype) ** -self.power[images]).clamp_min(_LEAST_SHARE).reshape(-1, 1, 1, 1)
        pull = torch.lerp(self.average[images], gradient, share)
        quadratic = cost.quadratic(delta)
        direction, _ = conjugate_gradients(
            quadratic.product, quadratic.preconditioner, pull, 1e-2, _LINEAR_STEPS, start=self.direction[images]
        )
        # A run that starts beyond the boundary has nothing to take back: its first tangent will.
        fresh = (self.shortfall[images] == 0) & (values > 0)
        counted = torch.where(fresh, 0.0, values)
        self.depth[images] = torch.maximum(self.depth[images], values.abs())
        most = _MOST_INTEGRAL * self.depth[images]
        shortfall = (self.shortfall[images] - _INTEGRAL * counted).clamp(-most, most)
        gained = per_image(pull * delta).flatten()
        needed = gained - values + shortfall + _BEYOND * self.depth[images]
        needed = torch.maximum(needed, 0.3 * gained.abs())
        moved = _reach(quadratic, pull, direction, needed, cost.reference, self.attack.eight_bit)
        if self.attack.measure == "floor":
            cost.reweight(cost.losses(cost.reference + moved))
            self.cost.weights[images] = cost.weights
        self.average[images], self.direction[images] = pull, direction
        self.shortfall[images], self.delta[images] = shortfall, moved

    def _schedule(self, image: int, logits: Tensor) -> None:
        """Ends an image's run where it is over, and starts its next one."""
        plan, step = self.plans[image], int(self.step[image])
        if self.scans and not plan.classes:
            plan.classes = self.objective.likely(logits, int(self.objective.labels[image]), _CLASSES)
        best, run = float(self.best_cost[image]), float(self.run_cost[image])
        if plan.scanned:  # one step towards a class has just been taken, which tells its cost by the tangent
            cost = self.cost.select(torch.tensor([image], device=self.active.device))
            price = cost.of(cost.losses(cost.reference + self.delta[image]))
            plan.prices[plan.scanned.pop(0)] = float(price)
            if plan.scanned:
                self._restart(image, plan.scanned[0], _POWERS[0])
            else:
                plan.queue = _queue(plan.prices, best)
                self._next(image, plan)
        elif step >= plan.length or (plan.runs > 0 and step >= _PATIENCE and run > _HOPELESS * best):
            self._next(image, plan)

    def _next(self, image: int, plan: "_Plan") -> None:
        plan.runs += 1
        plan.length = _LATER
        if plan.runs == 1 and len(plan.classes) > 1:
            plan.scanned = list(plan.classes)
            self._restart(image, plan.scanned[0], _POWERS[0])
        elif plan.queue:
            self._restart(image, *plan.queue.pop(0))
        else:
            self._restart(image, -1, _POWERS[0])
            if bool(torch.isfinite(self.best_cost[image])):
                self.delta[image] = self.best[image] - self.reference[image]
                self.average[image] = self.best_average[image]
                self.step[image] = _REFINED

    def _restart(self, image: int, rival: int, power: float) -> None:
        for state in (self.delta, self.average, self.direction, self.shortfall, self.depth, self.step):
            state[image] = 0
        self.rival[image], self.power[image] = rival, power
        self.run_cost[image] = torch.inf

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


class _Plan:
    """What an image's runs are: a first one, a look at the likely classes, one towards each, then refinements.

    Attributes:
        length: gradients of the present run.
        runs: that are over.
        classes: the likely ones, best logit first, without the label.
        scanned: classes still to be looked at.
        prices: of the classes looked at, by their tangents at the reference.
        queue: runs to come, as (rival or -1, power).
    """

    def __init__(self, length: int) -> None:
        self.length, self.runs = length, 0
        self.classes: list[int] = []
        self.scanned: list[int] = []
        self.prices: dict[int, float] = {}
        self.queue: list[tuple[int, float]] = []


def _queue(prices: dict[int, float], best: float) -> list[tuple[int, float]]:
    """Runs towards the classes, the cheapest first; the patient average before the forgetful one."""
    ranked = [rival for rival in sorted(prices, key=lambda rival: prices[rival]) if prices[rival] < _DEAR * best]
    runs = [(rival, _POWERS[0]) for rival in ranked]
    again = [(rival, _POWERS[1]) for rival in (-1, *ranked)]
    return [run for pair in zip_longest(runs, again) for run in pair if run is not None]


def _reach(
    quadratic: WindowQuadratic, pull: Tensor, direction: Tensor, needed: Tensor, reference: Tensor, eight_bit: bool
) -> Tensor:
    """The cheapest perturbation with `<pull, d> >= needed`, `(B,)`, near the ray of `direction = M^-1 pull`.

    On the lattice where a sparse perturbation is cheapest, pixels are worth what they are on their own, `pull`
    over the diagonal of M; where it is dense, what they are together, `direction`. A start halfway and one round of
    descent come within a few percent of many rounds from either.
    """
    target = (direction + pull / quadratic.exact_diagonal) / 2 if eight_bit else direction

    def scaled(scale: Tensor) -> Tensor:
        moved = scale * target
        return to_level(moved, reference) if eight_bit else moved.clamp(-reference, 1 - reference)

    slope = per_image(pull * target)
    goal = needed.reshape(-1, 1, 1, 1)
    low, high = torch.zeros_like(slope), _STRETCH * goal / slope.clamp_min(_TINY)
    for _ in range(_STRETCHES):  # where only a few pixels are worth a level, most of a perturbation is rounded away
        short = per_image(pull * scaled(high)) < goal
        if not bool(short.any()):
            break
        low, high = torch.where(short, high, low), torch.where(short, _STRETCH * high, high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        enough = per_image(pull * scaled(middle)) >= goal
        high, low = torch.where(enough, middle, high), torch.where(enough, low, middle)
    moved = scaled(high)
    if not eight_bit:
        return moved
    lower = descend(quadratic, high * pull, moved, reference)
    return torch.where(per_image(pull * lower) >= _LEAST_GAIN * goal, lower, moved)
