"""The SSIM ball of a batch of references: its levels, its constraints, and what is derived from it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from percep.ball.batch import of_images
from percep.ball.ellipsoid import MeanBall, denominators
from percep.ball.floor import FloorSets, LocalBall
from percep.ball.levels import Level, checked_level, four_dimensional
from percep.ball.membership import inside
from percep.ball.rays import boundary, scale
from percep.errors import InputError
from percep.ssim import C1, C2, View, ssim_map
from percep.summaries import range_of, shape_of
from percep.validation.images import require_perturbed, require_precise_images
from percep.validation.scalars import require_level
from percep.windows import Window

# Batches with more values than this are certified channel by channel.
_MAX_VALUES_AT_ONCE = 2**20
# Of a floor that is split window by window: no factor is held to 1, and one of 0 or less has no logarithm.
_LEAST_SHARE, _LEAST_FACTOR = 0.01, 1e-6


@dataclass
class _Cache:
    """Quantities of a ball that are computed when they are first needed; None before.

    Attributes:
        moments: local mean and variance of the reference in float64, `(B, C, h, w)`.
        floor_sets, ellipsoid: as in `SSIMBall`.
    """

    moments: tuple[Tensor, Tensor] | None = None
    floor_sets: FloorSets | None = None
    ellipsoid: MeanBall | None = None

    def select(self, images: Tensor) -> "_Cache":
        return _Cache(
            None if self.moments is None else (self.moments[0][images], self.moments[1][images]),
            None if self.floor_sets is None else self.floor_sets.select(images),
            None if self.ellipsoid is None else self.ellipsoid.select(images),
        )


@dataclass(frozen=True, eq=False, repr=False)
class _Fields:
    """The validated fields of an `SSIMBall`: images that are not finite are set to 0, levels are 4-dimensional."""

    reference: Tensor
    floor: Tensor | None
    mean: Tensor | None
    window: Window
    luminance_share: float
    finite: Tensor
    num_windows: int
    _expansion: Tensor | None = None
    _split: Tensor | None = None
    _cache: _Cache = field(default_factory=_Cache)


class SSIMBall(_Fields):
    """All perturbations `d` of a batch of references whose SSIM stays above a floor, or a mean, or both.

    * `floor` t: S1 >= t1 and S2 >= t2 in every window and channel with t1 t2 = t, hence SSIM >= t everywhere. The ball
      of each factor is exact (Brunet, Vrscay, Wang, IEEE TIP 2012); the split is a choice. The set SSIM >= t, which is
      not convex, is larger: if one factor is 1, the other may fall below its share of t. So the least SSIM of a
      solution is often above t (0.94 at a floor of 0.9, if only the contrast factor is below 1).
    * `mean` t: the mean of SSIM over windows and channels is at least t. The convex set used by the solvers is
      one ellipsoid per image, an inner approximation: the denominators of 1 - S1 and 1 - S2 are replaced by
      lower bounds. `expand` re-expands them at a perturbation, `boundary` goes to the exact limit along a ray.
    * the pixel range: `0 <= x + d <= 1`, always.

    Args:
        reference: `(B, C, H, W)` images in `[0, 1]`, float32 or float64. An image with NaN or infinite values is
            replaced by 0 in every computation; `finite` marks it.
        floor: in (0, 1): a number, a tensor `(B,)`, or a tensor that broadcasts to `(B, C, h, w)`.
        mean: in (0, 1): a number or a tensor `(B,)`.
        window: the SSIM window, `Window.gaussian()` by default.
        luminance_share: exponent s in (0, 1) of the floor's split, t1 = t^s and t2 = t^(1 - s).

    Attributes:
        reference, floor, mean, window, luminance_share: as given; levels as float64 tensors of four dimensions.
        finite: `(B,)` bool, which references hold neither NaN nor infinity.
        num_windows: windows of an image, channels included.

    Raises:
        InputError: no floor and no mean, a level outside (0, 1), a reference that is not a float32 or
            float64 `(B, C, H, W)` tensor, lies outside [0, 1] or is smaller than the window allows.
    """

    def __init__(
        self,
        reference: Tensor,
        floor: Level | None = None,
        mean: Level | None = None,
        window: Window | None = None,
        *,
        luminance_share: float = 0.5,
    ) -> None:
        finite = require_precise_images(reference, "reference")
        if floor is None and mean is None:
            raise InputError("an SSIM ball needs a floor, a mean or both, each in (0, 1)")
        luminance_share = require_level("luminance_share", luminance_share)
        window = Window.gaussian() if window is None else window
        # Autograd can save these tensors even if the ball is made under inference mode.
        with torch.inference_mode(False), torch.no_grad():
            finite = finite.clone()
            reference = torch.where(finite[:, None, None, None], reference, torch.zeros_like(reference))
        shape = (*reference.shape[:2], *window.grid(*reference.shape[-2:]))
        super().__init__(
            reference,
            checked_level(floor, "floor", shape, reference.device),
            checked_level(mean, "mean", (reference.shape[0], 1, 1, 1), reference.device),
            window,
            luminance_share,
            finite,
            math.prod(shape[1:]),
        )

    def __repr__(self) -> str:
        levels = ((name, getattr(self, name)) for name in ("floor", "mean"))
        levels_text = "".join(f", {name} {range_of(level)}" for name, level in levels if level is not None)
        return f"SSIMBall({shape_of(self.reference)}{levels_text}, {self.window!r})"

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.reference.shape[0]

    @property
    def map_shape(self) -> tuple[int, int, int, int]:
        """Shape of the SSIM map, `(B, C, h, w)`."""
        batch, channels, height, width = self.reference.shape
        return (batch, channels, *self.window.grid(height, width))

    @property
    def lowest(self) -> Tensor:
        """`(B, C, H, W)` least perturbation the pixel range allows, `-x`."""
        return -self.reference

    @property
    def highest(self) -> Tensor:
        """`(B, C, H, W)` greatest perturbation the pixel range allows, `1 - x`."""
        return 1 - self.reference

    @cached_property
    def double(self) -> "SSIMBall":
        """The same ball in float64, of exactly the same reference values: what certificates are computed on."""
        if self.reference.dtype == torch.float64:
            return self
        expansion = None if self._expansion is None else self._expansion.double()
        return self._derived(_Cache(self.reference_moments), reference=self.reference.double(), _expansion=expansion)

    @property
    def exact(self) -> Iterator[tuple[slice, "SSIMBall"]]:
        """Float64 balls of consecutive channels, with their places in the batch: what certificates are computed on.

        One for a small batch; channel by channel for a large one, so that float64 adds little to the memory.
        """
        if self.reference.numel() <= _MAX_VALUES_AT_ONCE:
            yield slice(None), self.double
            return
        for channel in range(self.reference.shape[1]):
            yield slice(channel, channel + 1), self._channel(channel)

    @cached_property
    def view(self) -> View:
        """The linear view of the reference that the constraints act on: local moments, their adjoint, coverage."""
        return View(self.window, self.reference, self.reference_mean, self.reference_variance)

    @cached_property
    def reference_mean(self) -> Tensor:
        """Local mean of the reference, `(B, C, h, w)`."""
        return self.reference_moments[0].to(self.reference.dtype)

    @cached_property
    def reference_variance(self) -> Tensor:
        """Local variance of the reference, `(B, C, h, w)`."""
        return self.reference_moments[1].to(self.reference.dtype)

    @property
    def reference_moments(self) -> tuple[Tensor, Tensor]:
        """Local mean and variance of the reference in float64, `(B, C, h, w)` each."""
        if self._cache.moments is None:
            view = View.of(self.window, self.reference.double())
            self._cache.moments = view.reference_mean, view.reference_variance
        return self._cache.moments

    @property
    def floor_sets(self) -> FloorSets | None:
        """The exact balls `S1 >= t1` and `S2 >= t2` of every window, or None without a floor."""
        if self.floor is not None and self._cache.floor_sets is None:
            mean, variance = self.reference_moments
            dtype, (luminance, contrast) = self.reference.dtype, self.floor_factors
            self._cache.floor_sets = FloorSets(
                LocalBall.of_level(luminance, mean**2, C1, dtype),
                LocalBall.of_level(contrast, variance, C2, dtype),
            )
        return self._cache.floor_sets

    @property
    def floor_shares(self) -> tuple[Tensor, Tensor]:
        """The exponents of the floor that are the floors of S1 and of S2: float64, broadcasting to `(B, C, h, w)`."""
        if self._split is None:
            share = torch.full((1, 1, 1, 1), self.luminance_share, dtype=torch.float64, device=self.reference.device)
        else:
            share = self._split
        return share, 1 - share

    @property
    def floor_factors(self) -> tuple[Tensor, Tensor]:
        """The floors of S1 and of S2, whose product is the floor: float64, broadcasting to `(B, C, h, w)`.

        Raises `InputError` without a floor.
        """
        floor, (luminance, contrast) = self._require_floor(), self.floor_shares
        return floor**luminance, floor**contrast

    @property
    def ellipsoid(self) -> MeanBall | None:
        """The ellipsoid of the mean constraint, or None without one.

        Denominators are `mean(x)^2 + mean(y)^2 + C1` and `var(x) + var(y) + C2` with, for y, the least value
        in the floor's balls (0 without a floor), or the value at the perturbation given to `expand`.
        """
        if self.mean is not None and self._cache.ellipsoid is None:
            dtype, exact = self.reference.dtype, self.double
            of_windows = denominators(exact, exact._expansion)
            luminance, contrast = ((1 / (self.num_windows * each)).to(dtype) for each in of_windows)
            self._cache.ellipsoid = MeanBall(luminance, contrast, (1 - self.mean).to(dtype))
        return self._cache.ellipsoid

    def expand(self, delta: Tensor) -> "SSIMBall":
        """This ball with the mean's denominators taken at `delta`, `(B, C, H, W)`.

        Along the ray of `delta` the ellipsoid then measures `mean((1 - S1) + (1 - S2))` exactly; elsewhere it
        is no longer an inner approximation, so scale the solution by `boundary` of this ball. Raises `InputError` for
        another shape than the reference's.
        """
        self._require_like(delta, "delta")
        return self._derived(_Cache(self._cache.moments), _expansion=delta.detach().to(self.reference.dtype))

    def split_at(self, delta: Tensor) -> "SSIMBall":
        """This ball with the floor of each window split where `delta`, `(B, C, H, W)`, needs it.

        If S1 S2 is larger than the floor at `delta`, both factors get the same share of what is left, in logarithms. So
        a `delta` that keeps the floor, however it is split, lies inside, unless almost all of its loss is of one
        factor. Raises `InputError` for another shape than the reference's, or a ball without a floor.
        """
        self._require_like(delta, "delta")
        floor, exact = self._require_floor(), self.double
        losses = exact.view.losses(exact.reference + delta.detach().double())
        first, second = (torch.log1p(-each.clamp_max(1 - _LEAST_FACTOR)) for each in losses)
        share = (1 + (first - second) / floor.log()) / 2
        return self._derived(_Cache(self._cache.moments), _split=share.clamp(_LEAST_SHARE, 1 - _LEAST_SHARE))

    def with_reference_moments(self, mean: Tensor, variance: Tensor) -> "SSIMBall":
        """This ball with its `reference_moments` given instead of computed; they must be those of its reference."""
        return self._derived(_Cache((mean, variance)))

    def attached(self, reference: Tensor | None, floor: Level | None = None, mean: Level | None = None) -> "SSIMBall":
        """This ball with radii, centres and weights that autograd can differentiate in the tensors given.

        They must hold the values that the ball was built from. What is None stays as it is; without a `reference` its
        moments are not computed again.
        """
        levels = {
            name: four_dimensional(level.to(self.reference.device, torch.float64))
            for name, level in (("floor", floor), ("mean", mean))
            if isinstance(level, Tensor)
        }
        if reference is None:
            return self._derived(_Cache(self._cache.moments), **levels)
        values = torch.where(self.finite[:, None, None, None], reference, 0.0)
        return self._derived(_Cache(), reference=values, **levels)

    def select(self, images: Tensor) -> "SSIMBall":
        """The balls of some of the images, `images` an index or boolean tensor."""
        return self._derived(
            self._cache.select(images),
            reference=self.reference[images],
            finite=self.finite[images],
            floor=None if self.floor is None else of_images(self.floor, images),
            mean=None if self.mean is None else of_images(self.mean, images),
            _expansion=None if self._expansion is None else self._expansion[images],
            _split=None if self._split is None else self._split[images],
        )

    def _channel(self, channel: int) -> "SSIMBall":
        part = slice(channel, channel + 1)
        mean, variance = self.reference_moments
        return self._derived(
            _Cache((mean[:, part], variance[:, part])),
            reference=self.reference[:, part].double(),
            floor=self.floor[:, part] if self.floor is not None and self.floor.shape[1] > 1 else self.floor,
            _expansion=None if self._expansion is None else self._expansion[:, part].double(),
            _split=None if self._split is None else self._split[:, part],
        )

    def _derived(self, cache: _Cache, **changes: Any) -> "SSIMBall":
        """This ball with some fields changed and with another cache; not validated again."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return _DerivedBall(**(values | changes | {"_cache": cache}))

    def _require_floor(self) -> Tensor:
        if self.floor is None:
            raise InputError("a ball without a floor has no split of it")
        return self.floor

    def _require_like(self, values: Tensor, name: str) -> None:
        reference = self.reference
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.shape != reference.shape:
            got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(f"{name} must be a floating-point tensor {tuple(reference.shape)}, got {got}")
        if values.device != reference.device:
            raise InputError(f"{name} must be on the reference's device, {reference.device}, got {values.device}")

    def ssim_map(self, images: Tensor) -> Tensor:
        """SSIM of `(B, C, H, W)` images in [0, 1] with their references, per window and channel: `(B, C, h, w)`.

        NaN in the windows that hold NaN. Raises `InputError` for images of another shape, type or range.
        """
        require_precise_images(images)
        self._require_like(images, "images")
        return ssim_map(self.reference, images, self.window)

    def contains(self, images: Tensor) -> Tensor:
        """`(B,)` bool: which `(B, C, H, W)` images lie in the set, evaluated in float64 without tolerance.

        The floor is tested factor by factor (S1 >= t1 and S2 >= t2), the mean on the true mean SSIM. False
        for an image that is not finite, that lies outside [0, 1] or whose reference is not finite.

        Raises:
            InputError: images of another shape or type, or with values outside [-1, 2], which indicate another scale.
        """
        require_perturbed(images, self.reference)
        self._require_like(images, "images")
        return inside(self, images.double() - self.reference.double())

    def scale(self, delta: Tensor) -> Tensor:
        """`(B,)` float64: the largest s in [0, 1] with `s * delta` in the convex set, in closed form.

        The convex set is the exact floor balls, the ellipsoid of the mean and the pixel range. 0 for a
        perturbation that is not finite. Raises `InputError` for another shape than the reference's.
        """
        self._require_like(delta, "delta")
        return scale(self, delta)

    def boundary(self, delta: Tensor) -> Tensor:
        """`(B,)` float64: how far the ray of `delta` runs inside the true set (`contains`), by bisection.

        `s * delta` is inside and `(s + 2e-12) * delta` outside, up to s = 4; so a result of 4 means at
        least 4. On a ray 1 - S1 and 1 - S2 grow with s, so the crossing is the first one. 0 for a perturbation that is
        not finite. Raises `InputError` for another shape than the reference's.
        """
        self._require_like(delta, "delta")
        return boundary(self, delta)


@dataclass(frozen=True, eq=False, repr=False)
class _DerivedBall(SSIMBall):
    """A ball made from the values of another one, field by field."""
