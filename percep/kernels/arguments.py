"""What goes into the kernels and comes out of them, the same on either device.

A kernel takes a few named tuples: of tensors in Triton, of the addresses of their float32 in Numba.
"""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from percep.kernels.geometry import Geometry

T = TypeVar("T")


class Floor(NamedTuple):
    """What the update of the floor's multipliers reads. Pairs are those of luminance and of contrast.

    Attributes:
        k: k1 and k2, of the same shape, broadcasting to `(B, C, h, w)`.
        radii: R1 and R2, `(B, C, h, w)`.
        multipliers: l1 and l2, likewise.
        last_steps: what was last added to their logarithms, likewise.
        min_share: share of an image's largest multiplier below which none falls.
    """

    k: tuple[Tensor, Tensor]
    radii: tuple[Tensor, Tensor]
    multipliers: tuple[Tensor, Tensor]
    last_steps: tuple[Tensor, Tensor]
    min_share: float


class UpdateInputs(NamedTuple):
    """What an update of the multipliers reads, of a floor, of an ellipsoid or of both.

    Attributes:
        delta, reference: `(B, C, H, W)`.
        moments: mean and variance of the reference, `(B, C, h, w)`.
        floor: None without a floor.
        weights: the ellipsoid's, of squared means and variances, `(B, C, h, w)`; None without a mean.
        step_sizes: eta and the momentum of each image, `(B,)`.
    """

    delta: Tensor
    reference: Tensor
    moments: tuple[Tensor, Tensor]
    floor: Floor | None
    weights: tuple[Tensor, Tensor] | None
    step_sizes: tuple[Tensor, Tensor]


class Updated(NamedTuple):
    """What an update returns.

    Attributes:
        multipliers: l1 and l2, `(B, C, h, w)`.
        steps: of their logarithms, likewise.
        squared_norms: the ellipsoid's `|K d|^2`, `(B, 1, 1, 1)`.
    """

    multipliers: tuple[Tensor, Tensor]
    steps: tuple[Tensor, Tensor]
    squared_norms: Tensor


class FloorBalls(NamedTuple):
    """The floor's balls of every window. Pairs are those of luminance and of contrast.

    Attributes:
        reference: x, `(B, C, H, W)`.
        moments: its mean and variance, `(B, C, h, w)`.
        k: k1 and k2, of one number for each image or for all.
        radii: R1 and R2, `(B, C, h, w)`.
    """

    reference: Tensor
    moments: tuple[Tensor, Tensor]
    k: tuple[Tensor, Tensor]
    radii: tuple[Tensor, Tensor]


class WindowExcesses(NamedTuple):
    """By how much windows exceed their balls.

    Attributes:
        luminance: of a mean of `d - k1 x` that is larger than its radius, what is to be subtracted to bring it to
            `1 - tightening` of that; 0 elsewhere. `(B, C, h, w)` like the next two.
        contrast: of a variance that is larger than its squared radius, likewise.
        shifted_mean: of `d - k2 x`.
        exceeded: images in which a squared radius is exceeded by more than the share `tightening`, `(B, 1, 1, 1)`.
    """

    luminance: Tensor
    contrast: Tensor
    shifted_mean: Tensor
    exceeded: Tensor


class SystemArguments(NamedTuple, Generic[T]):
    """What a product `M v = diagonal v + A' (inner A v)` reads: `vector` is v, `(B, C, H, W)` as is `diagonal`."""

    vector: T
    diagonal: T
    inner: T


class ImageArguments(NamedTuple, Generic[T]):
    """The perturbation and the reference, `(B, C, H, W)`; the reference's mean and variance, `(B, C, h, w)`."""

    delta: T
    reference: T
    reference_mean: T
    reference_variance: T


class ConstraintArguments(NamedTuple, Generic[T]):
    """One of the floor's two sets of constraints, `(B, C, h, w)`: what an update reads of it, and what it writes."""

    k: T
    radius: T
    multiplier: T
    last_step: T
    new_multiplier: T
    new_step: T


class FloorArguments(NamedTuple, Generic[T]):
    """Both sets of the floor. The k of window i of image b lies at `k_by_image * b + k_by_window * i`."""

    luminance: ConstraintArguments[T]
    contrast: ConstraintArguments[T]
    k_by_image: int
    k_by_window: int


class EllipsoidArguments(NamedTuple, Generic[T]):
    """The ellipsoid's weights of squared means and of variances, `(B, C, h, w)`."""

    luminance: T
    contrast: T


class StepSizes(NamedTuple, Generic[T]):
    """Of each image, `(B,)`: the exponent of a violation, and the share of a last step that is repeated."""

    eta: T
    momentum: T


class UpdateArguments(NamedTuple, Generic[T]):
    """All that an update reads and writes but for the ellipsoid's norm; of a part that is not computed, any tensors."""

    images: ImageArguments[T]
    floor: FloorArguments[T]
    ellipsoid: EllipsoidArguments[T]
    step_sizes: StepSizes[T]

    @property
    def updated(self) -> tuple[tuple[T, T], tuple[T, T]]:
        """The new multipliers and their steps."""
        first, second = self.floor.luminance, self.floor.contrast
        return (first.new_multiplier, second.new_multiplier), (first.new_step, second.new_step)


def system_arguments(vector: Tensor, diagonal: Tensor, inner: Tensor, window: Geometry) -> SystemArguments[Tensor]:
    """Broadcasts to `(B, C, H, W)` and `(B, C, h, w)`, not yet contiguous; raises `InputError` if no window fits."""
    grid = window.grid(*sides(vector))
    return SystemArguments(vector, diagonal.expand(vector.shape), inner.expand(*vector.shape[:2], *grid))


def update_arguments(given: UpdateInputs) -> UpdateArguments[Tensor]:
    """An update as kernels take it, contiguous, with new tensors for what is written."""
    images = ImageArguments(*(contiguous(values) for values in (given.delta, given.reference, *given.moments)))
    return UpdateArguments(
        images,
        _floor_arguments(given.floor, images.reference_mean),
        EllipsoidArguments(*(contiguous(values) for values in given.weights or given.moments)),
        StepSizes(*(contiguous(values) for values in given.step_sizes)),
    )


def _floor_arguments(floor: Floor | None, like: Tensor) -> FloorArguments[Tensor]:
    """The sets of a floor over windows `like`, `(B, C, h, w)`, which also stands where there is none."""
    if floor is None:
        unused = ConstraintArguments(*[like] * 6)
        return FloorArguments(unused, unused, 0, 0)
    by_image = floor.k[0].numel() == floor.k[0].shape[0]
    luminance, contrast = (
        ConstraintArguments(
            contiguous(k if by_image else k.expand(like.shape)),
            contiguous(radius),
            contiguous(multiplier),
            contiguous(last_step),
            empty_like(like),
            empty_like(like),
        )
        for k, radius, multiplier, last_step in zip(
            floor.k, floor.radii, floor.multipliers, floor.last_steps, strict=True
        )
    )
    if by_image:
        return FloorArguments(luminance, contrast, int(floor.k[0].shape[0] > 1), 0)
    return FloorArguments(luminance, contrast, like.shape[1:].numel(), 1)


def clamp_to_share(multipliers: Tensor, share: float) -> Tensor:
    """Raises multipliers to a share of the image's largest, in place, so that none is lost for good."""
    return multipliers.clamp_min_(share * multipliers.flatten(1).amax(1).reshape(-1, 1, 1, 1))


def contiguous(values: Tensor) -> Tensor:
    """The values in memory in the order of their indices, apart from autograd; the tensor itself where it is that."""
    if values.is_contiguous() and not values.requires_grad and not values.is_neg():
        return values
    return values.detach().resolve_neg().contiguous()


def empty_like(values: Tensor) -> Tensor:
    """A new contiguous tensor of that shape."""
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def sides(values: Tensor) -> tuple[int, int]:
    """Height and width."""
    return int(values.shape[-2]), int(values.shape[-1])
