"""The nearest images in the true set of an SSIM ball, by programs over convex sets inside it, one after the other."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.batch import per_image
from percep.ball.levels import Level
from percep.ball.membership import keeps_ssim
from percep.errors import InputError
from percep.program import Program, Solution, Status
from percep.solvers import solve
from percep.summaries import counted, range_of, shape_of, table
from percep.validation.images import require_perturbed
from percep.validation.scalars import require_positive
from percep.windows import Window

if TYPE_CHECKING:
    import pandas as pd

_MAX_ROUNDS = 12
# At a tenth of the precision, as their sets are about to be moved.
_ROUGH_ROUNDS = 2
# What an independent evaluation in float64 may find less of SSIM than this one.
_RESERVE = 1e-11
# A perturbation shrinks by these shares until the image, as rounded to its dtype, is inside.
_SHRUNK = tuple(10.0**exponent for exponent in range(-7, 0))


@dataclass(frozen=True, repr=False)
class Projection:
    """Images projected onto the true set.

    Attributes:
        images: `(B, C, H, W)`, in the dtype of those given: in [0, 1], with a mean SSIM of at least `mean` and an SSIM
            of at least `floor` in every window, which `percep.certify` confirms. The reference itself where an image
            or its reference is not finite.
        distance: `(B,)` float64, the Euclidean distance of an image from the one given; NaN where that is not finite.
        unchanged: `(B,)` bool: the image given, clipped to [0, 1], lies in the set, and is the nearest one itself.
        gap: `(B,)` float64, `Solution.gap` of the last program: how far the image may be from the nearest one of the
            convex set that touches the true set there. Another part of the true set, which is not convex, may
            hold a nearer one, of which nothing is certified.
        status: one `Status` per image: `solved` where the last program's gap is at most the tolerance.
    """

    images: Tensor
    distance: Tensor
    unchanged: Tensor
    gap: Tensor
    status: tuple[Status, ...]

    def __repr__(self) -> str:
        return (
            f"Projection({shape_of(self.images)}: {counted(self.status)}; {int(self.unchanged.sum())} unchanged; "
            f"distance {range_of(self.distance)})"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """One row per image: status, distance, unchanged and gap."""
        return table(
            {
                "status": [str(status) for status in self.status],
                "distance": self.distance,
                "unchanged": self.unchanged,
                "gap": self.gap,
            }
        )


@torch.no_grad()
def project(
    images: Tensor,
    reference: Tensor,
    floor: Level | None = None,
    mean: Level | None = None,
    window: Window | None = None,
    *,
    tol: float = 1e-3,
) -> Projection:
    """The nearest images, in the Euclidean distance, whose SSIM with their references keeps a floor, a mean or both.

    The true set, of y in [0, 1] with SSIM >= floor in every window and a mean SSIM >= mean, is not convex. An
    `SSIMBall` is a convex set inside it. Each round projects onto such a set, and then moves the set: the denominators
    of the mean are expanded at the answer (`SSIMBall.expand`), and the floor of each window is split between luminance
    and contrast as the answer needs it (`SSIMBall.split_at`), until the distance falls no more. The last set touches
    the true one.

    Args:
        images: `(B, C, H, W)`, floating point of the reference's dtype; may leave [0, 1], but not [-1, 2].
        reference: `(B, C, H, W)` in [0, 1], float32 or float64.
        floor, mean: as in `SSIMBall`, at least one of them.
        window: `Window.gaussian()` by default.
        tol: relative gap of each program; a round also has to gain that share of the squared distance.

    Raises:
        InputError: no level, levels outside (0, 1), tensors that are not such images or do not fit, or a tol that is
            not positive.
    """
    tol = require_positive("tol", tol)
    ball = SSIMBall(reference, floor, mean, window)
    finite = require_perturbed(images, reference) & ball.finite
    if images.dtype != reference.dtype or images.device != reference.device:
        raise InputError(f"images must be like the reference, {shape_of(reference)}, got {shape_of(images)}")
    given = torch.where(finite[:, None, None, None], images, ball.reference)
    clipped = given.clamp(0, 1)
    unchanged = finite & keeps_ssim(ball, clipped.double() - ball.reference.double())
    result = clipped.clone()
    gap = torch.where(finite, 0.0, torch.nan).to(torch.float64)
    rest = torch.nonzero(finite & ~unchanged).flatten()
    if len(rest):
        result[rest], gap[rest] = _nearest(ball.select(rest), given[rest], tol)
    distance = (result.double() - given.double()).flatten(1).norm(dim=1)
    status = tuple(
        (Status.SOLVED if value <= tol else Status.ITERATION_LIMIT) if usable else Status.NOT_FINITE
        for value, usable in zip(gap.tolist(), finite.tolist(), strict=True)
    )
    result = torch.where(finite[:, None, None, None], result, reference)
    return Projection(result, torch.where(finite, distance, torch.nan), unchanged, gap, status)


def _nearest(ball: SSIMBall, images: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """The nearest images that the rounds find, and the gaps of the programs that they are the answers of."""
    best = ball.reference.clone()
    squared = _squared_distance(best, images)
    gap = torch.full_like(squared, torch.inf)
    pending = torch.arange(len(images), device=images.device)
    current, earlier = ball, None
    for round_ in range(_MAX_ROUNDS):
        anchor, rough = images[pending] - current.reference, round_ < _ROUGH_ROUNDS
        program = Program(current, proximal=1.0, anchor=anchor)
        solution = solve(program, tol=min(1.0, 10 * tol) if rough else tol, warm_start=earlier)
        found = _inside(current, solution)
        distance = _squared_distance(found, images[pending])
        gained = (distance < squared[pending] * (1 - tol)) | rough
        better = distance < squared[pending]
        chosen = pending[better]
        best[chosen], squared[chosen], gap[chosen] = found[better], distance[better], solution.gap[better]
        if not bool(gained.any()):
            break
        pending, earlier = pending[gained], solution.select(torch.nonzero(gained).flatten())
        current = _moved(ball.select(pending), best[pending])
    return best, gap


def _moved(ball: SSIMBall, images: Tensor) -> SSIMBall:
    """The convex set of the same levels that touches the true set at the images."""
    delta = images - ball.reference
    if ball.floor is not None:
        ball = ball.split_at(delta)
    return ball if ball.mean is None else ball.expand(delta)


def _inside(ball: SSIMBall, solution: Solution) -> Tensor:
    """The solution's images, moved towards their references until they are in the true set, rounded to their dtype."""
    reference, delta = ball.reference, solution.delta
    factor = torch.ones(len(delta), dtype=torch.float64, device=delta.device)
    if ball.mean is not None:  # an expanded ellipsoid may leave the set
        factor = ball.boundary(delta).clamp_max(1.0)
    result = reference.clone()
    waiting = torch.ones_like(factor, dtype=torch.bool)
    for shrunk in (0.0, *_SHRUNK):
        tried = (reference + (factor * (1 - shrunk)).to(delta.dtype)[:, None, None, None] * delta).clamp(0, 1)
        kept = waiting & keeps_ssim(ball, tried.double() - reference.double(), _RESERVE)
        result = torch.where(kept[:, None, None, None], tried, result)
        waiting = waiting & ~kept
        if not bool(waiting.any()):
            break
    return result


def _squared_distance(first: Tensor, second: Tensor) -> Tensor:
    return per_image((first.double() - second.double()).square()).flatten()
