"""The program over an SSIM ball, its solution, and the status of each image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.errors import InputError
from percep.summaries import counted, range_of, shape_of, table
from percep.validation.scalars import shown

if TYPE_CHECKING:
    import pandas as pd

A = TypeVar("A")
B = TypeVar("B")


class Status(StrEnum):
    """Why a solver stopped on an image."""

    SOLVED = "solved"
    """Feasible, with a certified gap of at most the tolerance."""
    ITERATION_LIMIT = "iteration_limit"
    """Feasible, with a certified gap above the tolerance: read `gap` before use."""
    NOT_FINITE = "not_finite"
    """The image, its linear term or its anchor holds NaN or infinity; its perturbation is 0."""


@dataclass(frozen=True, repr=False)
class _Fields:
    """The fields of a `Program`."""

    ball: SSIMBall
    linear: Tensor
    proximal: float | Tensor
    anchor: Tensor | None


class Program(_Fields):
    """Maximise `<g, d> - (rho / 2) |d - a|^2` over the ball, for each image on its own.

    `rho = 0` is the paper's program: the best first-order perturbation in the ball. `g = 0, rho = 1` projects
    `a` onto the ball; `percep.project` projects onto the true set, which is larger.

    Attributes:
        ball: the feasible set of the batch.
        linear: g, `(B, C, H, W)`, the gradient to follow, at any scale; 0 where None is given.
        proximal: rho >= 0, a number or one per image `(B,)`.
        anchor: a, `(B, C, H, W)`; None is 0. It need not be feasible.

    Raises:
        InputError: a shape or dtype that does not match the ball's reference, or a negative rho.
    """

    def __init__(
        self,
        ball: SSIMBall,
        linear: Tensor | None = None,
        proximal: float | Tensor = 0.0,
        anchor: Tensor | None = None,
    ) -> None:
        super().__init__(ball, torch.zeros_like(ball.reference) if linear is None else linear, proximal, anchor)
        shape, dtype = self.ball.reference.shape, self.ball.reference.dtype
        for name, value in (("linear", self.linear), ("anchor", self.anchor)):
            if value is None:
                continue
            if not isinstance(value, Tensor):
                raise InputError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
            if value.shape != shape or value.dtype != dtype or value.device != self.ball.reference.device:
                remedy = f": give {name}.to(reference)" if value.shape == shape else ""
                raise InputError(
                    f"{name} must match the reference, {shape_of(self.ball.reference)}, got {shape_of(value)}{remedy}"
                )
        try:
            rho = torch.as_tensor(self.proximal).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"proximal must be a number or a tensor, got {shown(self.proximal)}") from error
        if rho.is_complex() or rho.dtype == torch.bool:
            raise InputError(f"proximal must be real, got {rho.dtype}")
        if rho.ndim > 1 or (rho.ndim == 1 and rho.shape[0] != self.ball.batch):
            raise InputError(f"proximal must be a number or a tensor ({self.ball.batch},), got {tuple(rho.shape)}")
        if not bool(((rho >= 0) & torch.isfinite(rho)).all()):
            raise InputError("proximal must be finite and at least 0")

    def __repr__(self) -> str:
        anchor = "no anchor" if self.anchor is None else "an anchor"
        return f"Program({self.ball!r}, proximal {range_of(self.rho)}, {anchor})"

    @property
    def rho(self) -> Tensor:
        """`(B, 1, 1, 1)` in the reference's dtype."""
        reference = self.ball.reference
        rho = torch.as_tensor(self.proximal, dtype=reference.dtype, device=reference.device).detach()
        return rho.expand(self.ball.batch).reshape(-1, 1, 1, 1)

    @property
    def linear_term(self) -> Tensor:
        """`g + rho a`, the objective's gradient at d = 0, `(B, C, H, W)`."""
        return self.linear if self.anchor is None else self.linear + self.rho * self.anchor

    @property
    def finite(self) -> Tensor:
        """`(B,)` bool: which images have a finite reference, linear term and anchor."""
        finite = self.ball.finite & torch.isfinite(self.linear).flatten(1).all(1)
        if self.anchor is not None:
            finite = finite & torch.isfinite(self.anchor).flatten(1).all(1)
        return finite

    def objective(self, delta: Tensor) -> Tensor:
        """`<g, d> - (rho / 2) |d - a|^2` per image, `(B,)` float64."""
        total = torch.zeros(self.ball.batch, dtype=torch.float64, device=delta.device)
        for channels, part in self.exact:
            values = delta[:, channels].double()
            distance = values if part.anchor is None else values - part.anchor
            total += (part.linear * values).flatten(1).sum(1)
            total -= part.rho.flatten() / 2 * (distance * distance).flatten(1).sum(1)
        return total

    @property
    def exact(self) -> Iterator[tuple[slice, "Program"]]:
        """Float64 programs of exactly the same values, of consecutive channels: see `SSIMBall.exact`."""
        rho = self.rho.double().flatten()
        for channels, ball in self.ball.exact:
            anchor = None if self.anchor is None else self.anchor[:, channels].double()
            yield channels, Program(ball, self.linear[:, channels].double(), rho, anchor)

    @property
    def double(self) -> "Program":
        """The same program in float64, of exactly the same values."""
        return self._converted(self.ball.double, Tensor.double)

    @property
    def magnitude(self) -> Tensor:
        """`(B,)`: the size of each linear term, the largest `|g|` of the image plus its largest `|rho a|`."""
        size = self.linear.flatten(1).abs().amax(1)
        if self.anchor is not None:
            size = size + self.rho.flatten() * self.anchor.flatten(1).abs().amax(1)
        return size

    def normalized(self) -> tuple["Program", Tensor]:
        """The programs with the objective divided by a unit, for linear terms of order 1; and the units, `(B,)`.

        Units are powers of two, so that nothing is rounded; a unit of 0 stands for g and rho a of 0: that
        program is unchanged.
        """
        size = self.magnitude
        mantissa = torch.frexp(size).mantissa
        unit = torch.where(size > 0, size / (2 * mantissa), 0.0)
        factor = torch.where(unit > 0, unit, 1.0).reshape(-1, 1, 1, 1)
        return replace(self, linear=self.linear / factor, proximal=(self.rho / factor).flatten()), unit

    def select(self, images: Tensor) -> "Program":
        """The programs of some of the images."""
        return self._converted(self.ball.select(images), lambda values: values[images])

    def _converted(self, ball: SSIMBall, convert: Callable[[Tensor], Tensor]) -> "Program":
        """The program over `ball` whose tensors of images, rho as `(B, 1, 1, 1)` among them, are converted."""
        anchor = None if self.anchor is None else convert(self.anchor)
        return Program(ball, convert(self.linear), convert(self.rho).flatten(), anchor)


class FloorMultipliers(NamedTuple):
    """Values per window of the floor's two constraints, `(B, C, h, w)`: multipliers, radii, violations or steps."""

    luminance: Tensor
    contrast: Tensor


@dataclass(frozen=True, repr=False)
class Multipliers:
    """Values per constraint of a program: its Lagrange multipliers, at least 0, or slacks or steps of the same shapes.

    They are multipliers of the squared constraints, `|statistic(d - k x)|^2 <= radius^2` in every window.

    Attributes:
        floor: of the floor's two constraints; None without a floor.
        mean: `(B, 1, 1, 1)`, of the ellipsoid; None without a mean.
    """

    floor: FloorMultipliers | None = None
    mean: Tensor | None = None

    def __repr__(self) -> str:
        names = ("luminance", "contrast", "mean")
        parts = [
            f"{name} {shape_of(part)}" for name, part in zip(names, self.tensors(), strict=True) if part is not None
        ]
        return f"Multipliers({', '.join(parts)})"

    @classmethod
    def of(cls, luminance: Tensor | None, contrast: Tensor | None, mean: Tensor | None = None) -> "Multipliers":
        """The inverse of `tensors`. Raises `InputError` for luminance without contrast, or the reverse."""
        if luminance is None and contrast is None:
            return cls(None, mean)
        if luminance is None or contrast is None:
            raise InputError("a floor has multipliers of luminance and of contrast, or none of either")
        return cls(FloorMultipliers(luminance, contrast), mean)

    @property
    def luminance(self) -> Tensor | None:
        """Of the floor's luminance constraints, `(B, C, h, w)`; None without a floor."""
        return None if self.floor is None else self.floor.luminance

    @property
    def contrast(self) -> Tensor | None:
        """Of the floor's contrast constraints, `(B, C, h, w)`; None without a floor."""
        return None if self.floor is None else self.floor.contrast

    @classmethod
    def zeros(cls, ball: SSIMBall) -> "Multipliers":
        """0 for every constraint of a ball, in the dtype of its reference."""
        zeros = ball.reference.new_zeros
        return cls(
            None if ball.floor is None else FloorMultipliers(zeros(ball.map_shape), zeros(ball.map_shape)),
            None if ball.mean is None else zeros(ball.batch, 1, 1, 1),
        )

    def channels(self, channels: slice) -> "Multipliers":
        """Those of some channels' windows."""
        floor = self.floor
        if floor is not None:
            floor = FloorMultipliers(floor.luminance[:, channels], floor.contrast[:, channels])
        return Multipliers(floor, self.mean)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Multipliers":
        """`function` of each tensor that is not None."""
        return Multipliers.of(*(None if mine is None else function(mine) for mine in self.tensors()))

    def join(self, other: "Multipliers", function: Callable[[Tensor, Tensor], Tensor]) -> "Multipliers":
        """`function` of each pair of tensors; None where either is None."""
        pairs = zip(self.tensors(), other.tensors(), strict=True)
        return Multipliers.of(*(None if a is None or b is None else function(a, b) for a, b in pairs))

    def select(self, images: Tensor) -> "Multipliers":
        """Those of some of the images."""
        return self.map(lambda values: values[images])

    def update(self, images: Tensor, other: "Multipliers") -> None:
        """Overwrites the multipliers of some images in place."""
        for mine, new in zip(self.present(), other.present(), strict=True):
            mine[images] = new

    def present(self) -> list[Tensor]:
        """The tensors that are not None, in the order of `tensors`."""
        return [part for part in self.tensors() if part is not None]

    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Luminance, contrast, mean."""
        return self.luminance, self.contrast, self.mean


def paired(first: A | None, second: B | None) -> tuple[A, B] | None:
    """Two values of the same constraint, such as its sets and its multipliers; None where the ball has no such one.

    Raises:
        InputError: only one of the two is None.
    """
    if first is None and second is None:
        return None
    if first is None or second is None:
        raise InputError("a program needs multipliers of the constraints of its ball, floor and mean alike")
    return first, second


@dataclass(frozen=True, repr=False)
class Solution:
    """The solutions of a batch of programs.

    Attributes:
        delta: `(B, C, H, W)`, in the reference's dtype, strictly inside the ball's convex set.
        objective: `(B,)` float64, at `delta`.
        bound: `(B,)` float64, a rigorous upper bound on the optimum by weak duality.
        gap: `(B,)` float64, the share of the possible gain that may be missing, `(bound - objective) / (bound - zero)`,
            with the objective `zero = -(rho / 2) |a|^2` of no perturbation; without an anchor `1 - objective / bound`.
            So `|d - d*|^2 <= gap / (1 - gap) |a|^2` for a projection of `a`, whose nearest point is d*.
        status: one `Status` per image.
        iterations: `(B,)` int64, outer iterations used.
        multipliers: the dual variables behind `bound`; pass the `Solution` back to warm-start a solver.
    """

    delta: Tensor
    objective: Tensor
    bound: Tensor
    gap: Tensor
    status: tuple[Status, ...]
    iterations: Tensor
    multipliers: Multipliers

    def __repr__(self) -> str:
        return f"Solution({shape_of(self.delta)}: {counted(self.status)}; gap {range_of(self.gap)})"

    def to_pandas(self) -> "pd.DataFrame":
        """One row per image: status, objective, bound, gap and iterations."""
        return table(
            {
                "status": [str(status) for status in self.status],
                "objective": self.objective,
                "bound": self.bound,
                "gap": self.gap,
                "iterations": self.iterations,
            }
        )

    def select(self, images: Tensor) -> "Solution":
        """The solutions of some of the images, `images` an index tensor."""
        return Solution(
            self.delta[images],
            self.objective[images],
            self.bound[images],
            self.gap[images],
            tuple(self.status[image] for image in images.tolist()),
            self.iterations[images],
            self.multipliers.select(images),
        )

    def update(self, images: Tensor, other: "Solution") -> None:
        """Overwrites the solutions of some of the images in place, all but their status."""
        for mine, new in (
            (self.delta, other.delta),
            (self.objective, other.objective),
            (self.bound, other.bound),
            (self.gap, other.gap),
            (self.iterations, other.iterations),
        ):
            mine[images] = new
        self.multipliers.update(images, other.multipliers)
