"""A matrix-free dual method for overlapping windows: multiplicative updates around warm-started CG."""

from copy import copy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from percep import kernels
from percep.ball.batch import per_image
from percep.kernels.arguments import Floor, UpdateInputs, clamp_to_share
from percep.kernels.gpu.graphs import Recorded
from percep.kernels.launcher import Launcher
from percep.program import FloorMultipliers, Multipliers, Program, Solution, paired
from percep.solvers.box_cg import maximise
from percep.solvers.constraints import squared_radii
from percep.solvers.iterative import Candidate, Iterate, IterativeSolver
from percep.solvers.lagrangian import NormalEquations, best_uncovered, dual_bound, feasible_multipliers

_TINY = 1e-30
# The least of an image's multipliers, relative to its largest.
_LEAST_MULTIPLIER = 1e-9
# A gap has stalled if it is above this share of the least gap certified before.
_STALLED = 0.9999
# Conjugate gradient steps of an iteration recorded as a graph, which cannot end early; most iterations take six.
_RECORDED_STEPS = 8
# Cosine with the earlier solution above which its multipliers are a better starting point than a cold start's.
_SIMILAR = 0.75
# Of the secant of a violation over the logarithm of the mean's multiplier: the least step it is taken over, as linear
# solves are inexact, and the flattest slope it may have.
_LEAST_MOVE, _LEAST_SLOPE = 1e-3, 1e-2


@dataclass(frozen=True)
class Dual(IterativeSolver):
    """Alternates a linear solve for d at fixed multipliers with a multiplicative update of the multipliers.

    One multiplier per constraint, `log l += eta log(|K d - c|^2 / R^2) + momentum`; eta = 1/2 without momentum
    is the monotone majorise-minimise (IRLS) step. The momentum of a window is dropped whenever it points against
    the window's own violation, and eta and momentum are reduced for an image whose gap stalls: about three times
    faster than the plain step, and stable. d solves `M d = b` by a few warm-started conjugate gradient steps under a
    multilevel preconditioner; pixels at the ends of the range are an active set, revised once per iteration from the
    signs of their multipliers.

    From time to time a running average of d is restored to strict feasibility (at rho = 0 d itself jumps between
    nearly optimal vertices, its average converges), and the bound is evaluated in float64 after a tighter linear
    solve. Memory is a fixed number of image-sized tensors.

    Attributes:
        max_iterations: outer iterations after which an unsolved image has the status `iteration_limit`.
        eta: exponent of the update of a window's multipliers.
        momentum: share of a window's last update that is repeated.
        linear_steps: maximum of CG steps per iteration.
        certificate_steps: maximum of CG steps before a certificate.
        check_every: iterations between certificates; a warm start is certified after half as many.
    """

    max_iterations: int = 500
    eta: float = 0.8
    momentum: float = 0.8
    linear_steps: int = 30
    certificate_steps: int = 60
    check_every: int = 10

    def init(self, program: Program, tol: float, warm_start: Solution | None) -> "_Iterate":
        """See `IterativeSolver.init`."""
        state, early = _start(program, warm_start, self.linear_steps)
        return _Iterate(self, tol, state, early)


class _Iterate(Iterate):
    """The schedule: how precisely each iteration of a `_State` solves, how it averages, when it is certified.

    Args:
        settings: of the solver.
        tol: the required gap.
        state: the initial one.
        early: certify after half of `check_every` iterations as well.
    """

    tightening = 0.1

    def __init__(self, settings: Dual, tol: float, state: "_State", early: bool) -> None:
        self.settings, self.tol, self.state, self.early = settings, tol, state, early
        self.program = state.program
        self.has_floor = self.program.ball.floor is not None
        self.iteration = 0
        self.gap = torch.full((len(state.delta),), torch.inf, dtype=torch.float64, device=state.delta.device)
        self.graph = _Graph(settings) if state.delta.is_cuda else None

    def wants_certificate(self, iteration: int) -> bool:
        """True without a floor, where a certificate costs no more than an iteration of the single multiplier."""
        return not self.has_floor or (self.early and 2 * iteration == self.settings.check_every)

    def step(self) -> None:
        """With one short linear solve; on a CUDA device as a graph, without synchronisation with the host."""
        self.iteration += 1
        if self.graph is not None:
            self.state = self.graph(self.state, self.averaging_weight)
        else:
            _iterated(self.settings, self.settings.linear_steps, self.state, self.averaging_weight)

    @property
    def averaging_weight(self) -> float:
        """Weight of the current d in the running average."""
        return max(4 / (self.iteration + 3), 0.08) if self.has_floor else 1.0

    def maximise(self) -> None:
        """With a linear solve tight enough for a certificate, and without a floor the multiplier's step as well."""
        self.iteration += 1
        settings, state = self.settings, self.state
        if self.has_floor:
            state.solve_linear(settings.linear_steps, 1e-3, 0.1)
            state.solve_linear(settings.certificate_steps, 0.05 * self.tol)
        else:
            # The residual enters the objective and the bound squared, so one solve is almost always accurate enough;
            # with rho > 0 the constraint is then met to that accuracy only, and a gap that stalls asks for more.
            state.solve_linear(settings.certificate_steps, 0.2 * self.tol**0.5 * state.acceleration)
            state.update(settings.eta, settings.momentum)
        state.include_in_average(self.averaging_weight)

    def candidate(self) -> Candidate:
        """The running average of d, and the bound of the multipliers at d."""
        state = self.state
        bound = dual_bound(self.program, state.multipliers, state.delta)
        return Candidate(state.average, bound, state.multipliers)

    def update(self, gap: Tensor | None) -> None:
        """The multipliers' step, after a reduction of the acceleration of images whose gap has stalled."""
        if gap is not None:
            self.state.slow_down(gap > _STALLED * self.gap)
            self.gap = gap
        if self.has_floor:
            self.state.update(self.settings.eta, self.settings.momentum)

    def select(self, images: Tensor) -> "_Iterate":
        chosen = _Iterate(self.settings, self.tol, self.state.select(images), self.early)
        chosen.iteration, chosen.gap = self.iteration, self.gap[images]
        return chosen


def _iterated(settings: Dual, steps: int, state: "_State", averaging_weight: float | Tensor) -> "_State":
    """An iteration without a certificate, with at most `steps` CG steps; changes the state, and returns it."""
    state.solve_linear(steps, 1e-3, 0.1)
    state.include_in_average(averaging_weight)
    state.update(settings.eta, settings.momentum)
    return state


class _Graph:
    """`_iterated` for one batch of images as a CUDA graph, recorded when it is first needed."""

    def __init__(self, settings: Dual) -> None:
        self._settings = settings
        self._recorded: Recorded | None = None

    def __call__(self, state: "_State", averaging_weight: float) -> "_State":
        inputs = [*state.tensors(), torch.full_like(state.acceleration, averaging_weight)]
        if self._recorded is None:

            def once(tensors: list[Tensor]) -> list[Tensor]:
                return _iterated(self._settings, _RECORDED_STEPS, state.replaced(tensors), tensors[-1]).tensors()

            self._recorded = Recorded(once, inputs)
        return state.replaced(self._recorded(inputs))


class _State:
    """Perturbations, their running average, multipliers and their last steps, for the unsolved images.

    Attributes:
        delta: d; pixels that no window covers keep their best value.
        last_mean: without a floor, the logarithm of the mean's multiplier before its last step and its violation there,
            `(B, 1, 1, 1)` each; None before the first step.
        acceleration: `(B, 1, 1, 1)` in (0, 1], the applied share of `eta - 1/2` and of the momentum.
        last_step: of the logarithms of the multipliers.
    """

    def __init__(self, program: Program, multipliers: Multipliers, delta: Tensor) -> None:
        self.program = program
        self.multipliers = multipliers
        ball = program.ball
        self.delta = torch.where(ball.view.covered, delta, best_uncovered(program))
        self.average = self.delta
        self.acceleration = torch.ones_like(program.rho)
        self.last_step = multipliers.map(torch.zeros_like)
        self.last_mean: tuple[Tensor, Tensor] | None = None

    def select(self, images: Tensor) -> "_State":
        chosen = _State(
            self.program.select(images),
            self.multipliers.select(images),
            self.delta[images],
        )
        chosen.average = self.average[images]
        chosen.acceleration = self.acceleration[images]
        chosen.last_step = self.last_step.select(images)
        if self.last_mean is not None:
            chosen.last_mean = (self.last_mean[0][images], self.last_mean[1][images])
        return chosen

    def tensors(self) -> list[Tensor]:
        """The tensors that an iteration changes."""
        return [self.delta, self.average, self.acceleration, *self.multipliers.present(), *self.last_step.present()]

    def replaced(self, tensors: list[Tensor]) -> "_State":
        """The same state with other `tensors`."""
        other, rest = copy(self), iter(tensors)
        other.delta, other.average, other.acceleration = next(rest), next(rest), next(rest)
        other.multipliers = self.multipliers.map(lambda _: next(rest))
        other.last_step = self.last_step.map(lambda _: next(rest))
        return other

    def solve_linear(self, steps: int, tolerance: float | Tensor, reduction: float = 0.0) -> None:
        """Maximises the Lagrangian over the pixel range, from the current d: see `box_cg.maximise`."""
        equations = NormalEquations(self.program, self.multipliers)
        self.delta = maximise(self.program, equations, self.delta, steps, tolerance, reduction)

    def include_in_average(self, weight: float | Tensor) -> None:
        """Moves the running average of d towards the current d."""
        self.average = torch.lerp(self.average, self.delta, weight)

    def slow_down(self, stalled: Tensor) -> None:
        """Halves the acceleration of some images, `(B,)` bool."""
        self.acceleration = torch.where(stalled.reshape(-1, 1, 1, 1), self.acceleration / 2, self.acceleration)

    def typical_violation(self) -> Tensor:
        """The ratio of |K d - c| to R, averaged with the multipliers as weights: `(B, 1, 1, 1)`, 1 at an optimum."""
        limits = squared_radii(self.program.ball).join(self.multipliers, torch.mul)
        squares = limits.join(self.violations(), lambda limit, violation: limit * violation.exp())
        reached, allowed = (
            torch.stack([per_image(part) for part in total.present()]).sum(0) for total in (squares, limits)
        )
        return (reached / allowed).clamp(1e-12, 1e12).sqrt()

    def violations(self) -> Multipliers:
        """`log(|K d - c|^2 / R^2)` of every constraint, clamped to +-10."""
        ball = self.program.ball
        moments = ball.view.moments(self.delta)
        floor = mean = None
        if (sets := ball.floor_sets) is not None:
            contrast = _log_ratio(moments.variance_from(sets.contrast.k), sets.contrast.radius**2)
            shift = moments.mean_from(sets.luminance.k)
            floor = FloorMultipliers(_log_ratio(shift * shift, sets.luminance.radius**2), contrast)
        if (ellipsoid := ball.ellipsoid) is not None:
            squared = ellipsoid.squared_norm(moments.mean, moments.variance)
            mean = _log_ratio(squared, ellipsoid.budget)
        return Multipliers(floor, mean)

    def update(self, eta: float, momentum: float) -> None:
        """One multiplicative step. The ellipsoid's single multiplier takes the exact exponent 1/2.

        Without a floor and with rho = 0 that only rescales d, which is done here. With rho > 0 the exponent falls as
        rho outweighs the multiplier, and that of the secant is taken.
        """
        exponent, repeated = 0.5 + (eta - 0.5) * self.acceleration, momentum * self.acceleration
        if launch := kernels.fused_launcher(self.delta, self.program.ball.window):
            steps, updated = self._fused_step(launch, exponent, repeated)
        else:
            steps, updated = self._step(exponent, repeated)
        self.last_step, self.multipliers = steps, updated
        if steps.floor is None and steps.mean is not None and updated.mean is not None:
            self.multipliers = Multipliers(None, self._secant(steps.mean, updated.mean))
            factor = torch.where((self.program.rho > 0) | ~self.program.ball.view.covered, 1.0, (-steps.mean).exp())
            self.delta = self.delta * factor
            self.delta = self.delta.clamp(self.program.ball.lowest, self.program.ball.highest)

    def _secant(self, step: Tensor, updated: Tensor) -> Tensor:
        """The mean's multiplier by a secant where rho > 0, from its step with the exponent 1/2 and what that gives."""
        violation, place = 2 * step, updated.clamp_min(_TINY).log() - step
        if self.last_mean is not None:
            moved, changed = place - self.last_mean[0], violation - self.last_mean[1]
            slope = torch.where(moved.abs() > _LEAST_MOVE, changed / moved, -2.0).clamp(-2.0, -_LEAST_SLOPE)
            farthest = (2 * moved.abs()).clamp(_LEAST_MOVE, 3)
            secant = torch.minimum(torch.maximum(-violation / slope, -farthest), farthest)
            updated = torch.where(self.program.rho > 0, (place + secant).exp(), updated)
        self.last_mean = place, violation
        return updated

    def _step(self, exponent: Tensor, repeated: Tensor) -> tuple[Multipliers, Multipliers]:
        """Steps of the logarithms of the multipliers, and the updated multipliers."""
        violations, old, last = self.violations(), self.multipliers, self.last_step
        steps = violations.join(last, partial(_stepped, eta=exponent, momentum=repeated))
        if violations.mean is not None:
            steps = replace(steps, mean=(0.5 * violations.mean).clamp_(-3, 3))
        return steps, old.join(
            steps, lambda multiplier, step: clamp_to_share(multiplier * step.exp(), _LEAST_MULTIPLIER)
        )

    def _fused_step(self, launch: Launcher, exponent: Tensor, repeated: Tensor) -> tuple[Multipliers, Multipliers]:
        """`_step` by a kernel, in one pass over the image."""
        ball, old, last = self.program.ball, self.multipliers, self.last_step
        floor = weights = None
        if (of_floor := paired(ball.floor_sets, paired(old.floor, last.floor))) is not None:
            sets, (multipliers, last_steps) = of_floor
            floor = Floor(
                (sets.luminance.k, sets.contrast.k),
                (sets.luminance.radius, sets.contrast.radius),
                multipliers,
                last_steps,
                _LEAST_MULTIPLIER,
            )
        of_mean = paired(ball.ellipsoid, old.mean)
        if of_mean is not None:
            ellipsoid, multiplier = of_mean
            weights = (ellipsoid.luminance, ellipsoid.contrast)
        moments = (ball.reference_mean, ball.reference_variance)
        rates = (exponent.flatten(), repeated.flatten())
        given = UpdateInputs(self.delta, ball.reference, moments, floor, weights, rates)
        updated = launch.update_multipliers(given, ball.window)
        floor_steps = floor_multipliers = mean_step = mean = None
        if floor is not None:
            floor_steps = FloorMultipliers(*updated.steps)
            floor_multipliers = FloorMultipliers(*updated.multipliers)
        if of_mean is not None:
            mean_step = (0.5 * _log_ratio(updated.squared_norms, ellipsoid.budget)).clamp_(-3, 3)
            mean = clamp_to_share(multiplier * mean_step.exp(), _LEAST_MULTIPLIER)
        return Multipliers(floor_steps, mean_step), Multipliers(floor_multipliers, mean)


def _log_ratio(squared: Tensor, limit: Tensor) -> Tensor:
    """`log(squared / limit)`, clamped to +-10."""
    return (squared / limit).clamp_min_(_TINY).log_().clamp_(-10, 10)


def _stepped(violation: Tensor, last: Tensor, eta: Tensor, momentum: Tensor) -> Tensor:
    """The step of a multiplier's logarithm; the momentum is dropped if the last step points against the violation."""
    momentum_term = torch.where(last * violation > 0, last, 0.0).clamp_(-1.0, 0.2)
    return (eta * violation + momentum * momentum_term).clamp_(-3, 3)


def _start(program: Program, warm_start: Solution | None, linear_steps: int) -> tuple[_State, bool]:
    """The initial state, and whether some image starts close to its solution, which deserves an early certificate.

    A cold start takes the multipliers of a dual feasible point. Earlier multipliers are rescaled to the new linear term
    by one linear solve, and kept above a tenth of a cold start's, so that those of windows that were slack can grow. If
    the solve points in another direction than the earlier solution, as it does when an attack's gradients have little
    in common, the earlier multipliers alone would take longer than a cold start: the two are averaged.
    """
    cold = feasible_multipliers(program)
    if warm_start is None:
        return _State(program, cold, torch.zeros_like(program.linear)), False
    earlier = warm_start.multipliers.map(lambda values: values.to(program.linear.dtype))
    earlier_delta = warm_start.delta.to(program.linear.dtype)
    state = _State(program, earlier, earlier_delta)
    state.solve_linear(linear_steps, 1e-3, 0.1)
    product = per_image(state.delta * earlier_delta)
    squares = per_image(state.delta**2) * per_image(earlier_delta**2)
    similar = product > _SIMILAR * squares.sqrt()
    factor = state.typical_violation()

    def blended(warm: Tensor, cold: Tensor) -> Tensor:
        return torch.where(similar, torch.maximum(factor * warm, 0.1 * cold), (factor * warm + cold) / 2)

    multipliers = earlier.join(cold, blended)
    return _State(program, multipliers, state.delta / factor.clamp_min(1e-3)), bool(similar.any())
