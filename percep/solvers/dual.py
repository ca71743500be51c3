"""A matrix-free dual method for overlapping windows: multiplicative updates around warm-started CG."""

from dataclasses import dataclass

import torch
from torch import Tensor

from percep.program import Multipliers, Program, Solution
from percep.solvers.answers import Answers
from percep.solvers.lagrangian import NormalEquations, per_image
from percep.solvers.recovery import restore
from percep.ssim import variance

_TINY = 1e-30


@dataclass(frozen=True)
class Dual:
    """Alternates a linear solve for d at fixed multipliers with a multiplicative update of the multipliers.

    One multiplier per constraint, `l <- l (|K d - c|^2 / R^2)^eta`; eta = 1/2 is the monotone
    majorise-minimise (IRLS) step. d solves `M d = b` by a few warm-started, diagonally preconditioned conjugate
    gradient steps; pixels at the ends of the range are an active set, revised once per iteration from the signs
    of their multipliers. Every `check_every` iterations d is restored to strict feasibility and the bound is
    evaluated in float64 after a tight linear solve; images whose gap is at most `tol` leave the batch.

    Memory is a fixed number of image-sized tensors.

    Attributes:
        max_iterations: outer iterations before an image is given up as `iteration_limit`.
        eta: exponent of the update of a window's multipliers.
        linear_steps: CG steps per iteration.
        check_every: iterations between certificates.
        certificate_steps: most CG steps before a certificate.
    """

    max_iterations: int = 600
    eta: float = 0.9
    linear_steps: int = 3
    check_every: int = 20
    certificate_steps: int = 60

    def solve(self, program: Program, tol: float, warm_start: Solution | None = None) -> Solution:
        """See `percep.solve`, which calls this with finite programs whose linear term is of order 1."""
        answers = Answers(program)
        images = torch.arange(program.ball.batch, device=program.linear.device)
        state = _start(program, warm_start)
        for iteration in range(1, self.max_iterations + 1):
            state.solve_linear(self.linear_steps, 1e-3)
            if iteration % self.check_every == 0 or iteration == self.max_iterations:
                state.solve_linear(self.certificate_steps, 1e-2 * tol)
                restored = restore(state.program.ball, state.delta)
                gap = answers.offer(images, state.program, restored, state.delta, state.multipliers, iteration)
                keep = gap > tol
                if not bool(keep.all()):
                    images, state = images[keep], state.select(keep)
                    if not len(images):
                        break
            state.update(self.eta)
        return answers.solution(tol)


class _State:
    """The iterate of the images still in the batch."""

    def __init__(self, program: Program, multipliers: Multipliers, delta: Tensor) -> None:
        self.program = program
        self.multipliers = multipliers
        self.delta = delta
        self.held_high = torch.zeros_like(delta, dtype=torch.bool)
        self.held_low = torch.zeros_like(delta, dtype=torch.bool)

    def select(self, images: Tensor) -> "_State":
        chosen = _State(
            self.program.select(images),
            self.multipliers.map(lambda values: values[images]),
            self.delta[images],
        )
        chosen.held_high, chosen.held_low = self.held_high[images], self.held_low[images]
        return chosen

    def solve_linear(self, steps: int, tolerance: float) -> None:
        """Conjugate gradients on the pixels off the range's ends, then a revision of which pixels those are.

        Stops per image when the residual is `tolerance` of the right-hand side in the preconditioner's norm.
        """
        ball = self.program.ball
        equations = NormalEquations(self.program, self.multipliers)
        free = ~(self.held_high | self.held_low)
        preconditioner = equations.preconditioner * free
        residual = equations.right - equations.product(self.delta)
        target = tolerance**2 * per_image(equations.preconditioner * equations.right**2)
        scaled = preconditioner * residual
        direction = scaled
        weight = per_image(scaled * residual)
        for _ in range(steps):
            going = weight > target
            if not bool(going.any()):
                break
            product = equations.product(direction)
            curvature = per_image(direction * product)
            length = torch.where(going & (curvature > 0), weight / curvature.clamp_min(_TINY), 0.0)
            self.delta = torch.addcmul(self.delta, length, direction)
            residual = torch.addcmul(residual, length, product, value=-1)
            scaled = preconditioner * residual
            previous, weight = weight, per_image(scaled * residual)
            direction = torch.addcmul(scaled, weight / previous.clamp_min(_TINY), direction)
        high, low = ball.highest, ball.lowest
        self.held_high = (self.held_high & (residual > 0)) | (self.delta > high)
        self.held_low = (self.held_low & (residual < 0)) | (self.delta < low)
        self.delta = self.delta.clamp(low, high)

    def _ratios(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """`|K d - c|^2 / R^2` of the luminance and contrast balls and of the ellipsoid."""
        ball = self.program.ball
        window = ball.window
        mean_d = window.mean(self.delta)
        second = window.mean(self.delta * self.delta)
        luminance = contrast = mean = None
        if ball.luminance is not None and ball.contrast is not None:
            k = ball.contrast.k
            cov = window.mean(self.delta * ball.reference) - mean_d * ball.reference_mean
            moved = second - mean_d**2 - 2 * k * cov + k * k * ball.reference_variance
            contrast = moved.clamp_min(0) / ball.contrast.radius**2
            luminance = (mean_d - ball.luminance.k * ball.reference_mean) ** 2 / ball.luminance.radius**2
        if ball.ellipsoid is not None:
            spread = (second - mean_d**2).clamp_min(0)
            mean = (
                per_image(ball.ellipsoid.luminance * mean_d**2 + ball.ellipsoid.contrast * spread)
                / ball.ellipsoid.budget
            )
        return luminance, contrast, mean

    def update(self, eta: float) -> None:
        """`l <- l * ratio^eta`; the single multiplier of the ellipsoid takes the exact exponent 1/2."""
        luminance, contrast, mean = self._ratios()
        old = self.multipliers
        self.multipliers = Multipliers(
            _raised(old.luminance, luminance, eta), _raised(old.contrast, contrast, eta), _raised(old.mean, mean, 0.5)
        )


def _raised(multipliers: Tensor | None, ratio: Tensor | None, exponent: float) -> Tensor | None:
    if multipliers is None or ratio is None:
        return None
    raised = multipliers * ratio.clamp(1e-4, 1e4) ** exponent
    return torch.maximum(raised, 1e-9 * raised.flatten(1).amax(1).reshape(-1, 1, 1, 1))


def _start(program: Program, warm_start: Solution | None) -> _State:
    """Multipliers of a dual feasible point: `g = K'(K (g / A'1))` split over all constraints."""
    ball, window = program.ball, program.ball.window
    height, width = (int(side) for side in ball.reference.shape[-2:])
    if warm_start is not None and warm_start.multipliers is not None:
        return _State(program, warm_start.multipliers, warm_start.delta)
    coverage = window.adjoint(torch.ones_like(ball.reference[:1, :1, :1, :1]).expand(1, 1, *ball.map_shape[2:]), height, width)
    pull = program.linear if program.anchor is None else program.linear + program.rho * program.anchor
    pull = pull / coverage.clamp_min(1e-3)
    mean_g = window.mean(pull)
    variance_g = variance(window, pull, mean_g)
    share = 1.0 if ball.ellipsoid is None or ball.contrast is None else 0.5
    luminance = contrast = mean = None
    if ball.luminance is not None and ball.contrast is not None:
        luminance = share * mean_g.abs() / (2 * ball.luminance.radius)
        contrast = share * variance_g.sqrt() / (2 * ball.contrast.radius)
        luminance = torch.maximum(luminance, 1e-6 * luminance.flatten(1).amax(1).reshape(-1, 1, 1, 1))
        contrast = torch.maximum(contrast, 1e-6 * contrast.flatten(1).amax(1).reshape(-1, 1, 1, 1))
    if ball.ellipsoid is not None:
        squared = per_image(mean_g**2 / ball.ellipsoid.luminance + variance_g / ball.ellipsoid.contrast)
        mean = share * (squared / ball.ellipsoid.budget).sqrt() / 2
    return _State(program, Multipliers(luminance, contrast, mean), torch.zeros_like(program.linear))
