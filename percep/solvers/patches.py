"""Window copies of the pixels, and the sets in which they must lie, for the splitting solvers.

`K_i d` is window i's own copy of its pixels, with `<u, v>_i = sum_j w_j u_j v_j` as inner product, so that
`|K_i d|^2 = mean_i(d)^2 + var_i(d)`, the two parts are orthogonal, and `sum_i s_i K_i' K_i = diag(A' s)` for any
weights s. Projections onto the balls act on a copy through its mean and its deviation alone: every one has the form
`z = factor v + shift`, with one factor and one shift per window.

Copies are tensors `(B, C, size, size, h, w)`, the windows last; values per window are `(B, C, h, w)`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.batch import per_image
from percep.ball.ellipsoid import MeanBall
from percep.ball.floor import FloorSets
from percep.errors import InputError
from percep.precision import without_autocast
from percep.program import FloorMultipliers, Multipliers, Program, Solution
from percep.solvers.lagrangian import best_uncovered

_MAX_BYTES = 2 * 2**30
_MAX_NEWTON_STEPS = 30

P = TypeVar("P", FloorMultipliers, Tensor)


class Patches:
    """Copies of the pixels of every window of a ball, and the adjoint."""

    def __init__(self, ball: SSIMBall) -> None:
        self.window, self.reference = ball.window, ball.reference
        self.size = (int(ball.reference.shape[-2]), int(ball.reference.shape[-1]))
        size, like = self.window.size, ball.reference
        taps = torch.tensor(self.window.taps, dtype=torch.float64, device=like.device)
        self.weights = torch.outer(taps, taps).to(like.dtype)
        self.before = (size - 1) // 2 if self.window.padding == "reflect" else 0
        self.after = size - 1 - self.before if self.window.padding == "reflect" else 0
        self.shape = (*ball.map_shape[:2], size, size, *ball.map_shape[2:])
        # Where each pixel of the padded image comes from.
        self.origin = tuple(_mirrored(side, self.before, self.after, like) for side in self.size)

    def gather(self, image: Tensor) -> Tensor:
        """`K d`, a view of the padded image: do not write to it."""
        margins = (self.before, self.after, self.before, self.after)
        padded = F.pad(image, margins, mode="reflect") if self.before or self.after else image
        size, stride = self.window.size, self.window.stride
        return padded.unfold(2, size, stride).unfold(3, size, stride).permute(0, 1, 4, 5, 2, 3)

    def zeros(self) -> Tensor:
        """New copies of 0."""
        return self.reference.new_zeros(self.shape)

    def about(self, k: Tensor | None, image: Tensor) -> Tensor:
        """`K d - k K x`, the copies that a block constrains; k None is 0."""
        copies = self.gather(image)
        return copies if k is None else copies - over_copies(k) * self.gather(self.reference)

    def scatter(self, copies: Tensor) -> Tensor:
        """`K' z`, the adjoint of `gather` under the copies' inner product: the sum of `w z` over windows."""
        batch, channels, size = copies.shape[:3]
        weighted = (copies * self.weights[:, :, None, None]).reshape(batch * channels, size * size, -1)
        height, width = (side + self.before + self.after for side in self.size)
        image = F.fold(weighted, (height, width), size, stride=self.window.stride).reshape(
            batch, channels, height, width
        )
        for dim, (origin, side) in enumerate(zip(self.origin, self.size, strict=True), 2):
            if origin.numel() > side:
                shape = (*image.shape[:dim], side, *image.shape[dim + 1 :])
                image = image.new_zeros(shape).index_add_(dim, origin, image)
        return image

    def adjoint(self, values: Tensor) -> Tensor:
        """`A' values`, from windows to pixels."""
        return self.window.adjoint(values, *self.size)

    def mean(self, copies: Tensor) -> Tensor:
        """`sum_j w_j z_j` of each copy."""
        with without_autocast():
            return torch.einsum("kl,bcklhw->bchw", self.weights, copies)

    def moments(self, copies: Tensor) -> "CopyMoments":
        """Weighted mean and variance of each copy."""
        mean = self.mean(copies)
        return CopyMoments(mean, (self.mean(copies * copies) - mean * mean).clamp_min_(0))


class CopyMoments(NamedTuple):
    """Mean and variance per window, `(B, C, h, w)` each."""

    mean: Tensor
    variance: Tensor


class Affine(NamedTuple):
    """`factor v + shift` of a copy v, both `(B, C, h, w)`."""

    factor: Tensor
    shift: Tensor

    def of(self, copies: Tensor) -> Tensor:
        """A new tensor of copies."""
        return (copies * over_copies(self.factor)).add_(over_copies(self.shift))

    def select(self, images: Tensor) -> "Affine":
        return Affine(self.factor[images], self.shift[images])


class Block(ABC, Generic[P]):
    """A convex set of copies `K d - k K x`: the constraints of the floor or of the mean, with multipliers P."""

    kind: ClassVar[Literal["floor", "mean"]]
    """The field of `Multipliers` that holds those of the block."""
    k: Tensor | None
    """The multiple of the reference that is subtracted from the copies of each window; None is 0."""

    @abstractmethod
    def project(self, moments: CopyMoments, penalty: Tensor) -> Affine:
        """The projection onto the set of copies with these moments, in the metric weighted by `penalty`."""

    @abstractmethod
    def support(self, moments: CopyMoments) -> Tensor:
        """The support function of the set, `(B,)`, at copies with these moments."""

    @abstractmethod
    def multipliers(self, moments: CopyMoments) -> P:
        """This block's multipliers, those of dual copies with these moments."""

    @abstractmethod
    def dual(self, moments: CopyMoments, multipliers: P) -> Affine:
        """The inverse of `multipliers`: dual copies that point along primal copies with these moments."""


@dataclass(frozen=True)
class FloorBlock(Block[FloorMultipliers]):
    """`|mean - centre| <= R1` and `deviation <= R2` in every window, about `k2 x`: `centre = (k1 - k2) mean_x`."""

    kind = "floor"
    k: Tensor
    centre: Tensor
    luminance: Tensor
    contrast: Tensor

    @classmethod
    def of(cls, ball: SSIMBall, sets: FloorSets) -> "FloorBlock":
        first, second = sets.luminance, sets.contrast
        return cls(second.k, (first.k - second.k) * ball.reference_mean, first.radius, second.radius)

    def project(self, moments: CopyMoments, penalty: Tensor) -> Affine:
        deviation = moments.variance.sqrt()
        factor = self.contrast / torch.maximum(deviation, self.contrast)
        mean = self.centre + (moments.mean - self.centre).clamp(-self.luminance, self.luminance)
        return Affine(factor, mean - factor * moments.mean)

    def support(self, moments: CopyMoments) -> Tensor:
        mean = self.luminance * moments.mean.abs() + self.centre * moments.mean
        return (mean + self.contrast * moments.variance.sqrt()).flatten(1).sum(1)

    def multipliers(self, moments: CopyMoments) -> FloorMultipliers:
        contrast = moments.variance.sqrt() / (2 * self.contrast)
        return FloorMultipliers(moments.mean.abs() / (2 * self.luminance), contrast)

    def dual(self, moments: CopyMoments, multipliers: FloorMultipliers) -> Affine:
        factor = 2 * multipliers.contrast
        return Affine(factor, 2 * multipliers.luminance * (moments.mean - self.centre) - factor * moments.mean)


@dataclass(frozen=True)
class MeanBlock(Block[Tensor]):
    """`sum_i luminance_i mean_i^2 + contrast_i var_i <= budget`, per image."""

    kind = "mean"
    ellipsoid: MeanBall
    k: None = None

    def project(self, moments: CopyMoments, penalty: Tensor) -> Affine:
        """Solves for the ellipsoid's multiplier, by Newton's method on `1 / norm` of the projection (Moré 1978).

        `1 / norm` is concave in the multiplier and nearly linear, so iterates rise monotonically from 0 to the root.
        """
        mean_weight, variance_weight = self.ellipsoid.luminance / penalty, self.ellipsoid.contrast / penalty
        mean_norm = penalty * mean_weight * moments.mean**2
        variance_norm = penalty * variance_weight * moments.variance
        budget = self.ellipsoid.budget
        multiplier = torch.zeros_like(budget.expand(len(mean_norm), 1, 1, 1))
        for _ in range(_MAX_NEWTON_STEPS):
            mean_factor, variance_factor = 1 / (1 + multiplier * mean_weight), 1 / (1 + multiplier * variance_weight)
            squared_norm = per_image(mean_norm * mean_factor**2 + variance_norm * variance_factor**2)
            excess = (squared_norm / budget).sqrt() - 1
            if not bool((excess > 8 * torch.finfo(multiplier.dtype).eps).any()):
                break
            slope = per_image(
                mean_norm * mean_weight * mean_factor**3 + variance_norm * variance_weight * variance_factor**3
            )
            newton = excess * squared_norm / slope.clamp_min(torch.finfo(slope.dtype).tiny)
            multiplier = (multiplier + newton).clamp_min_(0)
        mean_factor, variance_factor = 1 / (1 + multiplier * mean_weight), 1 / (1 + multiplier * variance_weight)
        return Affine(variance_factor, (mean_factor - variance_factor) * moments.mean)

    def _norm(self, moments: CopyMoments) -> Tensor:
        """The dual norm of copies, `(B, 1, 1, 1)`."""
        return self.ellipsoid.squared_dual_norm(moments.mean, moments.variance).sqrt()

    def support(self, moments: CopyMoments) -> Tensor:
        return (self._norm(moments) * self.ellipsoid.budget.sqrt()).flatten()

    def multipliers(self, moments: CopyMoments) -> Tensor:
        return self._norm(moments) / (2 * self.ellipsoid.budget.sqrt())

    def dual(self, moments: CopyMoments, multipliers: Tensor) -> Affine:
        mean_factor = 2 * multipliers * self.ellipsoid.luminance
        factor = 2 * multipliers * self.ellipsoid.contrast
        return Affine(factor, (mean_factor - factor) * moments.mean)


def over_copies(values: Tensor) -> Tensor:
    """Values per window, `(B, C, h, w)`, in a shape that broadcasts over copies."""
    return values[:, :, None, None]


def earlier_duals(program: Program, solution: Solution) -> list[Tensor]:
    """Dual copies y of an earlier solution of a program with the same shapes, one tensor per block.

    The multipliers scale with the linear term of the earlier program, so y is scaled for `K'y` to fit
    `g - rho (d - a)` in least squares.
    """
    ball, patches = program.ball, Patches(program.ball)
    delta = solution.delta.to(program.linear.dtype)
    multipliers = solution.multipliers.map(lambda values: values.to(delta.dtype))
    duals = []
    for block in blocks_of(ball):
        copies = patches.about(block.k, delta)
        duals.append(block.dual(patches.moments(copies), getattr(multipliers, block.kind)).of(copies))
    gradient = program.linear - program.rho * (delta if program.anchor is None else delta - program.anchor)
    adjoint = torch.stack([patches.scatter(dual) for dual in duals]).sum(0)
    factor = per_image(gradient * adjoint) / per_image(adjoint * adjoint).clamp_min(torch.finfo(adjoint.dtype).tiny)
    return [dual * over_copies(factor.clamp_min(0)) for dual in duals]


def blocks_of(ball: SSIMBall) -> list[Block[Any]]:
    """The floor's block, the mean's, or both in this order."""
    blocks: list[Block[Any]] = []
    if ball.floor_sets is not None:
        blocks.append(FloorBlock.of(ball, ball.floor_sets))
    if ball.ellipsoid is not None:
        blocks.append(MeanBlock(ball.ellipsoid))
    return blocks


def refuse_large(ball: SSIMBall) -> None:
    """Raises `InputError` for copies of more than 2 GiB; a solver needs up to eight times their memory."""
    size = len(blocks_of(ball)) * math.prod(ball.map_shape) * ball.window.size**2 * ball.reference.element_size()
    if size > _MAX_BYTES:
        raise InputError(
            f"window copies of {size / 2**30:.1f} GiB exceed {_MAX_BYTES / 2**30:.0f} GiB: use Dual or fewer images"
        )


def copies_bound(program: Program, duals: list[Tensor]) -> tuple[Tensor, Multipliers]:
    """The bound `(B,)` of one tensor of dual copies y per block, and the multipliers of y. Evaluate in float64.

    Weak duality for the constraints on copies, for any y: `sum_blocks (support of the block at y + <k K x, y>)
    + max_box (<g - K'y, d> - rho/2 |d - a|^2)`.
    """
    ball = program.ball
    patches = Patches(ball)
    residual = program.linear
    bound = program.linear.new_zeros(ball.batch)
    multipliers: dict[str, Any] = {}
    for block, dual in zip(blocks_of(ball), duals, strict=True):
        moments = patches.moments(dual)
        bound = bound + block.support(moments)
        if block.k is not None:
            product = patches.mean(dual * patches.gather(ball.reference))
            bound = bound + (block.k * product).flatten(1).sum(1)
        residual = residual - patches.scatter(dual)
        multipliers[block.kind] = block.multipliers(moments)
    rest = replace(program, linear=residual)
    return bound + rest.objective(best_uncovered(rest)), Multipliers(**multipliers)


def _mirrored(length: int, before: int, after: int, like: Tensor) -> Tensor:
    index = torch.arange(length, dtype=torch.float64, device=like.device)[None, None]
    padded = F.pad(index, (before, after), mode="reflect") if before or after else index
    return padded.flatten().long()
