"""Conjugate gradients over the pixel range: the perturbation that maximises a Lagrangian at fixed multipliers."""

import torch
from torch import Tensor

from percep import kernels
from percep.ball.batch import per_image
from percep.kernels.cg import BoxSystem, CGIterate
from percep.kernels.gpu.graphs import any_set
from percep.program import Program
from percep.solvers.lagrangian import NormalEquations

_TINY = 1e-30
# How far steps may leave the pixel range, a quarter of a grey level: a clamp costs a product and restarts the
# directions.
_MAX_EXCURSION = 1e-3


def maximise(
    program: Program,
    equations: NormalEquations,
    delta: Tensor,
    max_steps: int,
    tolerance: float | Tensor,
    reduction: float = 0.0,
) -> Tensor:
    """The d that maximises a Lagrangian over the pixel range: conjugate gradients with an active set of pixels.

    A step that leaves the range by more than `_MAX_EXCURSION` is clamped, and the directions are restarted. A pixel at
    an end of the range is in the active set while its gradient points outwards, a pixel that no window covers always;
    the others are free. An image stops when the gradient of its free pixels is `tolerance` of the right-hand side, or
    `reduction` of its initial value, in the preconditioner's norm, and no pixel leaves the active set.

    Args:
        program: whose ball has the pixel range.
        equations: `M d = b` of its Lagrangian.
        delta: the first d, `(B, C, H, W)`; pixels that no window covers keep it.
        max_steps: steps after which everything is returned as it is.
        tolerance: of the right-hand side, for all images or `(B, 1, 1, 1)`.
        reduction: of the initial value.
    """
    iterate = iterate_of(program, equations, delta)
    target = tolerance**2 * iterate.rhs_weight()
    running = torch.ones_like(target, dtype=torch.bool)
    iterate.restart(running)
    weight = iterate.precondition(running)
    target, beta = torch.maximum(target, reduction**2 * weight), torch.zeros_like(weight)
    for _ in range(max_steps):
        stopped = running & (weight <= target)
        if any_set(stopped):
            changed = stopped & iterate.revise_free(stopped)
            if any_set(changed):
                weight = torch.where(changed, iterate.precondition(changed), weight)
                beta = torch.where(changed, 0.0, beta)
            running = running & ~(stopped & (weight <= target))
            if not any_set(running):
                break
        curvature = iterate.multiply(beta, running)
        alpha = torch.where(running & (curvature > 0), weight / curvature.clamp_min(_TINY), 0.0)
        clamped = running & (iterate.move(alpha, running) > _MAX_EXCURSION)
        if any_set(clamped):
            iterate.restart(clamped)
        previous, weight = weight, torch.where(running, iterate.precondition(running), weight)
        beta = torch.where(clamped, 0.0, weight / previous.clamp_min(_TINY))
    return iterate.solution()


def iterate_of(program: Program, equations: NormalEquations, delta: Tensor) -> CGIterate:
    """By kernels where there are some, else by torch."""
    system = system_of(program, equations, delta)
    return kernels.cg_iterate(system) or TorchIterate(system, equations)


def system_of(program: Program, equations: NormalEquations, delta: Tensor) -> BoxSystem:
    """What an iterate reads, with the first d."""
    ball, preconditioner = program.ball, equations.preconditioner
    return BoxSystem(
        delta, ball.reference, equations.rhs, ball.view.covered.to(delta.dtype), equations.diagonal,
        equations.inner, preconditioner.inverse_diagonal, preconditioner.inverse_energies, ball.window,
    )  # fmt: skip


class TorchIterate:
    """`CGIterate` in torch, on any device; defines what kernels compute."""

    def __init__(self, system: BoxSystem, equations: NormalEquations) -> None:
        self._rhs, self._covered, self._equations = system.rhs, system.covered, equations
        self._lowest, self._highest = -system.reference, 1 - system.reference
        self._delta = system.delta
        self._residual = self._free = self._scaled = self._product = system.rhs  # until each is computed
        self._direction = torch.zeros_like(system.delta)

    def rhs_weight(self) -> Tensor:
        """See `CGIterate.rhs_weight`."""
        covered = self._covered * self._rhs
        return per_image(self._equations.preconditioner(covered) * covered)

    def restart(self, chosen: Tensor) -> None:
        """See `CGIterate.restart`."""
        self._delta = torch.where(chosen, self._delta.clamp(self._lowest, self._highest), self._delta)
        self._residual = torch.where(chosen, self._rhs - self._equations.product(self._delta), self._residual)
        self._free = torch.where(chosen, self._free_now(), self._free)

    def revise_free(self, chosen: Tensor) -> Tensor:
        """See `CGIterate.revise_free`."""
        revised = self._free_now()
        changed = chosen & (revised != self._free).flatten(1).any(1).reshape(-1, 1, 1, 1)
        self._free = torch.where(changed, revised, self._free)
        return changed

    def precondition(self, chosen: Tensor) -> Tensor:
        """See `CGIterate.precondition`."""
        self._scaled = self._free * self._equations.preconditioner(self._free * self._residual)
        return per_image(self._scaled * self._residual)

    def multiply(self, beta: Tensor, chosen: Tensor) -> Tensor:
        """See `CGIterate.multiply`."""
        self._direction = torch.addcmul(self._scaled, beta, self._direction)
        self._product, curvature = self._equations.curved(self._direction, chosen)
        return curvature

    def move(self, alpha: Tensor, chosen: Tensor) -> Tensor:
        """See `CGIterate.move`."""
        self._delta = torch.addcmul(self._delta, alpha, self._direction)
        self._residual = torch.addcmul(self._residual, alpha, self._product, value=-1)
        excursion = (self._delta.clamp(self._lowest, self._highest) - self._delta).abs_()
        return excursion.flatten(1).amax(1).reshape(-1, 1, 1, 1)

    def solution(self) -> Tensor:
        """See `CGIterate.solution`."""
        return self._delta.clamp(self._lowest, self._highest)

    def _free_now(self) -> Tensor:
        """1 at covered pixels that are inside the range or whose gradient points inwards, 0 elsewhere."""
        above = (self._delta >= self._highest) & (self._residual > 0)
        below = (self._delta <= self._lowest) & (self._residual < 0)
        return self._covered.masked_fill(above | below, 0.0)
