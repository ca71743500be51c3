"""The alternating direction method of multipliers on window copies: every step in closed form."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from percep.ball.batch import per_image
from percep.program import Program, Solution
from percep.solvers.iterative import Candidate, Iterate, IterativeSolver
from percep.solvers.lagrangian import best_uncovered
from percep.solvers.patches import (
    Affine,
    Block,
    CopyMoments,
    Patches,
    blocks_of,
    copies_bound,
    earlier_duals,
    over_copies,
    refuse_large,
)

_TINY = 1e-20
# Penalties are balanced until the ratio of |u| to |z| has this value. Larger penalties speed up d, smaller ones the
# bound, which converges later.
_DUAL_RATIO = 0.7


@dataclass(frozen=True)
class ADMM(IterativeSolver):
    """Consensus between the image and its window copies (Boyd et al. 2011, sections 3 and 7).

        maximise  <g, d> - rho/2 |d - a|^2 + box(d)   subject to   z = K d - k K x,  z in the balls

    Maximising the augmented Lagrangian over the copies z is a projection onto the balls; over d it is, since
    `sum_i s_i K_i' K_i` is diagonal for any penalty s per window, one division per pixel and a clamp to its
    range. With scaled duals u = y / s the iteration needs only `v = z + u` as a state,

        z = P(v),   d = clamp((g + rho a + K'(s (2 z - v + k K x))) / (rho + A's)),   v += alpha (K d - k K x - z),

    which is Douglas-Rachford splitting with over-relaxation alpha. Since P is affine on a copy, `factor v + shift`,
    z and u are never formed. A floor and a mean are two blocks of copies.

    Penalties are `tau / R2` per window (`tau contrast` for the mean's block), tau per image, balanced at each
    certificate. The bound is the dual function at `y = s (K d - k K x - 2 z + v)`, whose residual
    `g - K'y - rho (d - a)` is by the d-step exactly a multiplier of the pixel range.

    Memory is `size^2` numbers per window and block, and up to seven times that at a certificate. On images of 16
    to 20 pixels a gap of 1e-4 takes 20 to 1100 iterations for 8x8 windows at stride 4, tiles and means; for a floor
    on every 11-tap window at rho = 0, 500 leave 1e-3 to 1e-2 and 2000 leave 1e-4 to 1e-3: use `Dual` there.

    Attributes:
        max_iterations: iterations after which an unsolved image has the status `iteration_limit`.
        relaxation: alpha in (0, 2).
        check_every: iterations between certificates.

    Raises:
        InputError: copies of more than 2 GiB.
    """

    max_iterations: int = 2000
    relaxation: float = 1.7
    check_every: int = 20

    def init(self, program: Program, tol: float, warm_start: Solution | None) -> "_Iterate":
        """See `IterativeSolver.init`."""
        refuse_large(program.ball)
        return _start(program, self.relaxation, warm_start)


class _Iterate(Iterate):
    """For each block the copies `v = z + u`, the penalties and the projections, which give z and u; and d."""

    def __init__(self, program: Program, relaxation: float, copies: list[Tensor], penalties: list[Tensor]) -> None:
        self.program, self.relaxation = program, relaxation
        self.copies, self.penalties = copies, penalties
        self.patches, self.blocks = Patches(program.ball), blocks_of(program.ball)
        self.delta = best_uncovered(program)
        self.linear_term = program.linear_term
        self.projections: list[Affine] = []

    def select(self, images: Tensor) -> "_Iterate":
        chosen = _Iterate(
            self.program.select(images),
            self.relaxation,
            [copies[images] for copies in self.copies],
            [penalty[images] for penalty in self.penalties],
        )
        chosen.delta = self.delta[images]
        chosen.projections = [projection.select(images) for projection in self.projections]
        return chosen

    def maximise(self) -> None:
        """The projections, then the d-step."""
        self.project()
        self.maximise_over_pixels()

    def candidate(self) -> Candidate:
        """d, and the dual function at `y = s (K d - k K x - 2 z + v)`, in float64, with the multipliers of y."""
        duals = []
        for block, copies, penalty, (factor, shift) in self._parts():
            dual = Affine(1 - 2 * factor.double(), -2 * shift.double()).of(copies)
            duals.append(dual.add_(self.patches.about(block.k, self.delta)).mul_(over_copies(penalty)))
        bound, multipliers = copies_bound(self.program.double, duals)
        return Candidate(self.delta, bound, multipliers.map(lambda values: values.to(self.delta.dtype)))

    def update(self, gap: Tensor | None) -> None:
        """The step of v; after a certificate the penalties are balanced."""
        self.relax()
        if gap is not None:
            self.balance()

    def project(self) -> None:
        """`z = P(v)` of every block, as a factor and a shift per window."""
        self.projections = [
            block.project(self.patches.moments(copies), penalty)
            for block, copies, penalty in zip(self.blocks, self.copies, self.penalties, strict=True)
        ]

    def maximise_over_pixels(self) -> None:
        """The d-step. Pixels that no window covers keep their best value."""
        ball, adjoint = self.program.ball, self.patches.adjoint
        numerator, denominator = self.linear_term, self.program.rho
        for block, copies, penalty, (factor, shift) in self._parts():
            numerator = numerator + self.patches.scatter(copies * over_copies(penalty * (2 * factor - 1)))
            numerator = numerator + adjoint(2 * penalty * shift)
            denominator = denominator + adjoint(penalty)
            if block.k is not None:
                numerator = numerator + ball.reference * adjoint(penalty * block.k)
        best = (numerator / denominator.clamp_min(_TINY)).clamp(ball.lowest, ball.highest)
        self.delta = torch.where(denominator > 0, best, self.delta)

    def relax(self) -> None:
        """`v += alpha (K d - k K x - z)`."""
        for block, copies, _, (factor, shift) in self._parts():
            copies.mul_(over_copies(1 - self.relaxation * factor))
            copies.add_(self.patches.about(block.k, self.delta), alpha=self.relaxation)
            copies.sub_(over_copies(self.relaxation * shift))

    def balance(self) -> None:
        """Multiplies each image's penalties to bring z and u to a similar size, without a change of y and z.

        This is residual balancing with z in place of the primal residual and u in place of the dual one. It does not
        oscillate, and needs no copies but v.
        """
        self.project()
        primal, dual = self.program.rho.new_zeros(()), self.program.rho.new_zeros(())
        for _, copies, penalty, (factor, shift) in self._parts():
            mean, variance = self.patches.moments(copies)
            mean_z = factor * mean + shift
            primal = primal + per_image(penalty * (mean_z**2 + factor**2 * variance))
            dual = dual + per_image(penalty * ((mean - mean_z) ** 2 + (1 - factor) ** 2 * variance))
        change = (_DUAL_RATIO * (dual / primal.clamp_min(_TINY)).sqrt()).sqrt().clamp(0.2, 5.0)
        for _, copies, penalty, (factor, shift) in self._parts():
            copies.mul_(over_copies(factor + (1 - factor) / change))
            copies.add_(over_copies((1 - 1 / change) * shift))
            penalty.mul_(change)

    def _parts(self) -> Iterator[tuple[Block[Any], Tensor, Tensor, Affine]]:
        return zip(self.blocks, self.copies, self.penalties, self.projections, strict=True)


def _start(program: Program, relaxation: float, warm_start: Solution | None) -> _Iterate:
    """Penalties of the size of the linear term over that of the radii, and `v` from 0 or from an earlier solution."""
    ball = program.ball
    patches, blocks = Patches(ball), blocks_of(ball)
    squared = (per_image(program.linear_term**2) / program.linear[0].numel()).clamp_min(_TINY)
    typical = CopyMoments(torch.zeros_like(squared), squared.expand(ball.map_shape))
    # The curvature from the multipliers of dual copies that are of the size of the linear term.
    penalties = [block.dual(typical, block.multipliers(typical)).factor for block in blocks]
    if warm_start is None:
        return _Iterate(program, relaxation, [patches.zeros() for _ in blocks], penalties)
    delta = warm_start.delta.to(program.linear.dtype)
    copies = [
        patches.about(block.k, delta) + dual / over_copies(penalty)
        for block, dual, penalty in zip(blocks, earlier_duals(program, warm_start), penalties, strict=True)
    ]
    iterate = _Iterate(program, relaxation, copies, penalties)
    iterate.balance()
    return iterate
