"""The SSIM ball of a batch of references: its constraints, membership and exact scaling along rays."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from percep.errors import InputError
from percep.ssim import C1, C2, ssim_losses, ssim_map, variance
from percep.summaries import range_of, shape_of
from percep.validation.images import require_perturbed, require_precise_images
from percep.validation.scalars import require_level, shown
from percep.windows import Window

Level = float | Tensor

_TINY = 1e-300
# A window's moments cancel against each other: in float64 their error is about 1e-16 of the squared pixel range,
# and the smallest squared radius is about 1e-6 of it, so membership is decided to about 1e-10.
_ROUNDING = 1e-10
# Batches with more values than this are certified channel by channel.
_LARGE = 2**20


@dataclass(frozen=True)
class LocalBall:
    """`|statistic(d - k x)| <= radius` per window, with mean (luminance) or deviation (contrast) as statistic.

    The exact sublevel set `S >= 1 - e` of one SSIM factor: `k = e / (1 - e)` and
    `radius^2 = k (2 s(x) + C) + k^2 s(x)`, `s` the squared statistic of the reference. Shapes: `k` broadcasts to
    `(B, C, h, w)`, `radius` is `(B, C, h, w)`.
    """

    k: Tensor
    radius: Tensor

    @property
    def uniform(self) -> bool:
        """Whether k is the same in all windows of an image."""
        return self.k.shape[1:] == (1, 1, 1)

    def select(self, images: Tensor) -> "LocalBall":
        k = self.k[images] if self.k.shape[0] > 1 else self.k
        return LocalBall(k, self.radius[images])


@dataclass(frozen=True)
class MeanBall:
    """The ellipsoid `sum_i luminance_i mean_i(d)^2 + contrast_i var_i(d) <= budget`, one per image.

    `luminance` and `contrast` are `(B, C, h, w)`: one over the number of windows and over the (bounded or
    expanded) denominators of `1 - S1` and `1 - S2`. `budget` is `(B or 1, 1, 1, 1)`: 1 - mean.
    """

    luminance: Tensor
    contrast: Tensor
    budget: Tensor

    def select(self, images: Tensor) -> "MeanBall":
        budget = self.budget[images] if self.budget.shape[0] > 1 else self.budget
        return MeanBall(self.luminance[images], self.contrast[images], budget)


class SSIMBall:
    """All perturbations `d` of a batch of references whose SSIM stays above a floor, or a mean, or both.

    * `floor` t: S1 >= t1 and S2 >= t2 in every window and channel with t1 t2 = t, hence SSIM >= t everywhere. The ball
      of each factor is exact (Brunet, Vrscay, Wang, IEEE TIP 2012); the split is a choice. The set SSIM >= t, which is
      not convex, is wider: where one factor loses nothing, the other may lose more than its share, so the least SSIM of
      an answer is often above t (0.94 at a floor of 0.9, where only contrast is spent).
    * `mean` t: the mean of SSIM over windows and channels is at least t. The convex set used by the solvers is
      one ellipsoid per image, an inner approximation: the denominators of 1 - S1 and 1 - S2 are replaced by
      lower bounds. `expand` re-expands them at a perturbation, `boundary` goes to the exact limit along a ray.
    * the pixel range: `0 <= x + d <= 1`, always.

    Args:
        reference: `(B, C, H, W)` images in `[0, 1]`, float32 or float64. An image with NaN or infinite values is
            kept out of every computation; `finite` tells which.
        floor: in (0, 1): a number, a tensor `(B,)`, or a tensor that broadcasts to `(B, C, h, w)`.
        mean: in (0, 1): a number or a tensor `(B,)`.
        window: the SSIM window, `Window.gaussian()` by default.
        luminance_share: exponent s in (0, 1) of the floor's split, t1 = t^s and t2 = t^(1 - s).

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
        self.luminance_share = require_level("luminance_share", luminance_share)
        self.window = Window.gaussian() if window is None else window
        # Under inference mode too a ball is made of tensors that autograd can save.
        with torch.inference_mode(False), torch.no_grad():
            self.finite = finite.clone()
            self.reference = torch.where(self.finite[:, None, None, None], reference, torch.zeros_like(reference))
        grid = self.window.grid(*reference.shape[-2:])
        self.map_shape = (*reference.shape[:2], *grid)
        self.floor = _level(floor, "floor", self.map_shape, reference.device)
        self.mean = _level(mean, "mean", (reference.shape[0], 1, 1, 1), reference.device)
        self.windows = math.prod(self.map_shape[1:])
        self._expansion: Tensor | None = None

    def __repr__(self) -> str:
        levels = ((name, getattr(self, name)) for name in ("floor", "mean"))
        held = "".join(f", {name} {range_of(level)}" for name, level in levels if level is not None)
        return f"SSIMBall({shape_of(self.reference)}{held}, {self.window!r})"

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.reference.shape[0]

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
        return self._with(self.reference.double(), None if self._expansion is None else self._expansion.double())

    @property
    def exact(self) -> Iterator[tuple[slice, "SSIMBall"]]:
        """Float64 balls of consecutive channels, with their places in the batch: what certificates are computed on.

        One for a small batch; channel by channel for a large one, so that float64 adds little to the memory.
        """
        if self.reference.numel() <= _LARGE:
            yield slice(None), self.double
            return
        for channel in range(self.reference.shape[1]):
            yield slice(channel, channel + 1), self._channel(channel)

    @cached_property
    def reference_mean(self) -> Tensor:
        """Local mean of the reference, `(B, C, h, w)`."""
        return self._moments[0].to(self.reference.dtype)

    @cached_property
    def reference_variance(self) -> Tensor:
        """Local variance of the reference, `(B, C, h, w)`."""
        return self._moments[1].to(self.reference.dtype)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        reference = self.reference.double()
        mean = self.window.mean(reference)
        return mean, variance(self.window, reference, mean)

    @cached_property
    def luminance(self) -> LocalBall | None:
        """The exact balls `S1 >= t1`, or None without a floor."""
        if self.floor is None:
            return None
        return self._local(self.floor**self.luminance_share, self._moments[0] ** 2, C1)

    @cached_property
    def contrast(self) -> LocalBall | None:
        """The exact balls `S2 >= t2`, or None without a floor."""
        if self.floor is None:
            return None
        return self._local(self.floor ** (1 - self.luminance_share), self._moments[1], C2)

    def _local(self, level: Tensor, squared: Tensor, constant: float) -> LocalBall:
        k = (1 - level) / level
        radius = (k * (2 * squared + constant) + k * k * squared).sqrt()
        dtype = self.reference.dtype
        return LocalBall(k.to(dtype), radius.to(dtype))

    @cached_property
    def ellipsoid(self) -> MeanBall | None:
        """The ellipsoid of the mean constraint, or None without one.

        Denominators are `mean(x)^2 + mean(y)^2 + C1` and `var(x) + var(y) + C2` with, for y, the least value
        in the floor's balls (0 without a floor), or the value at the perturbation given to `expand`.
        """
        if self.mean is None:
            return None
        mean_x, var_x = self._moments
        if self._expansion is not None:
            images = self.reference.double() + self._expansion.double()
            mean_y = self.window.mean(images)
            squared, var_y = mean_y**2, variance(self.window, images, mean_y)
        else:
            squared = _least_square(self.double.luminance, mean_x)
            # Away from 0, where the square root has no derivative.
            var_y = _least_square(self.double.contrast, var_x.clamp_min(_TINY).sqrt())
        windows = self.windows
        dtype = self.reference.dtype
        return MeanBall(
            (1 / (windows * (mean_x**2 + squared + C1))).to(dtype),
            (1 / (windows * (var_x + var_y + C2))).to(dtype),
            (1 - self.mean).to(dtype),
        )

    def expand(self, delta: Tensor) -> "SSIMBall":
        """This ball with the mean's denominators taken at `delta`, `(B, C, H, W)`.

        Along the ray of `delta` the ellipsoid then measures `mean((1 - S1) + (1 - S2))` exactly; elsewhere it
        is no longer an inner approximation, so take the answer to `boundary` of this ball. Raises `InputError` for
        another shape than the reference's.
        """
        self._require_like(delta, "delta")
        return self._with(self.reference, delta.detach().to(self.reference.dtype))

    def attached(self, reference: Tensor, floor: Level | None = None, mean: Level | None = None) -> "SSIMBall":
        """This ball with radii, centres and weights that autograd can differentiate in the tensors given.

        They must hold the values the ball was built from; a level that is None stays as it is.
        """
        other = self._with(torch.where(self.finite[:, None, None, None], reference, 0.0), self._expansion)
        other.__dict__.pop("_moments", None)
        for name, level in (("floor", floor), ("mean", mean)):
            if isinstance(level, Tensor):
                setattr(other, name, _aligned(level.to(self.reference.device, torch.float64)))
        return other

    def select(self, images: Tensor) -> "SSIMBall":
        """The balls of some of the images, `images` an index or boolean tensor."""
        expansion = None if self._expansion is None else self._expansion[images]
        other = self._with(self.reference[images], expansion)
        other.finite = self.finite[images]
        other.map_shape = (other.batch, *self.map_shape[1:])
        if self.floor is not None and self.floor.shape[0] > 1:
            other.floor = self.floor[images]
        if self.mean is not None and self.mean.shape[0] > 1:
            other.mean = self.mean[images]
        for name in ("_moments", "luminance", "contrast", "ellipsoid"):
            if (known := self.__dict__.get(name)) is not None:
                picked = tuple(part[images] for part in known) if name == "_moments" else known.select(images)
                other.__dict__[name] = picked
        return other

    def _channel(self, channel: int) -> "SSIMBall":
        part = slice(channel, channel + 1)
        expansion = None if self._expansion is None else self._expansion[:, part].double()
        other = self._with(self.reference[:, part].double(), expansion)
        other.map_shape = (self.map_shape[0], 1, *self.map_shape[2:])
        if self.floor is not None and self.floor.shape[1] > 1:
            other.floor = self.floor[:, part]
        mean, variance = self._moments
        other.__dict__["_moments"] = (mean[:, part], variance[:, part])
        return other

    def _with(self, reference: Tensor, expansion: Tensor | None) -> "SSIMBall":
        other = object.__new__(SSIMBall)
        other.window, other.luminance_share, other.finite = self.window, self.luminance_share, self.finite
        other.map_shape, other.floor, other.mean = self.map_shape, self.floor, self.mean
        other.windows = self.windows
        other.reference, other._expansion = reference, expansion
        if (moments := self.__dict__.get("_moments")) is not None:
            other.__dict__["_moments"] = moments
        return other

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
            InputError: images of another shape or type, or with values outside [-1, 2]: on another scale.
        """
        require_perturbed(images, self.reference)
        self._require_like(images, "images")
        return self._inside(images.double() - self.reference.double())

    def _inside(self, delta: Tensor) -> Tensor:
        """`contains` for float64 perturbations."""
        ball = self.double
        delta, finite = _finite(delta)
        inside = finite & self.finite
        inside &= ((delta >= ball.lowest) & (delta <= ball.highest)).flatten(1).all(1)
        losses = ssim_losses(ball.reference, ball.reference + delta, self.window)
        if self.floor is not None:
            share = self.luminance_share
            inside &= (losses.luminance <= 1 - self.floor**share).flatten(1).all(1)
            inside &= (losses.contrast <= 1 - self.floor ** (1 - share)).flatten(1).all(1)
        if self.mean is not None:
            inside &= losses.ssim().flatten(1).mean(1) >= self.mean.flatten()
        return inside

    def scale(self, delta: Tensor) -> Tensor:
        """`(B,)` float64: the largest s in [0, 1] with `s * delta` in the convex set, in closed form.

        The convex set is the exact floor balls, the ellipsoid of the mean and the pixel range. 0 for a
        perturbation that is not finite. Raises `InputError` for another shape than the reference's.
        """
        self._require_like(delta, "delta")
        result = torch.full((self.batch,), torch.inf, dtype=torch.float64, device=self.reference.device)
        spent, finite = torch.zeros_like(result), self.finite
        for channels, ball in self.exact:
            values, whole = _finite(delta[:, channels].double())
            finite = finite & whole
            limit = torch.where(values > 0, ball.highest, ball.reference) / values.abs().clamp_min(_TINY)
            result = torch.minimum(result, torch.where(values == 0, torch.inf, limit).flatten(1).amin(1))
            mean_d = self.window.mean(values)
            var_d = variance(self.window, values, mean_d)
            if ball.luminance is not None and ball.contrast is not None:
                mean_x, var_x = ball._moments
                cov = self.window.mean(values * ball.reference) - mean_d * mean_x
                for local, quadratic, linear, squared, constant in (
                    (ball.luminance, mean_d**2, mean_d * mean_x, mean_x**2, C1),
                    (ball.contrast, var_d, cov, var_x, C2),
                ):
                    # s^2 quadratic - 2 s k linear <= k (2 squared + constant): the stable root of the boundary
                    half, slack = local.k * linear, local.k * (2 * squared + constant)
                    root = slack / ((half * half + quadratic * slack).sqrt() - half).clamp_min(_TINY)
                    result = torch.minimum(result, root.flatten(1).amin(1))
            if ball.ellipsoid is not None:
                spent += (ball.ellipsoid.luminance * mean_d**2 + ball.ellipsoid.contrast * var_d).flatten(1).sum(1)
        if self.mean is not None:
            result = torch.minimum(result, ((1 - self.mean.flatten()) / spent.clamp_min(_TINY)).sqrt())
        return torch.where(finite, (result * (1 - _ROUNDING)).clamp_max(1.0), 0.0)

    def boundary(self, delta: Tensor) -> Tensor:
        """`(B,)` float64: how far the ray of `delta` runs inside the true set (`contains`), by bisection.

        `s * delta` is inside and `(s + 2e-12) * delta` outside, up to s = 4; so an answer of 4 means at
        least 4. On a ray 1 - S1 and 1 - S2 grow with s, so the crossing is the first one. 0 for a perturbation that is
        not finite. Raises `InputError` for another shape than the reference's.
        """
        self._require_like(delta, "delta")
        delta, finite = _finite(delta.double())
        inside = torch.zeros(self.batch, dtype=torch.float64, device=delta.device)
        outside = torch.full_like(inside, 4.0)
        for _ in range(42):
            middle = (inside + outside) / 2
            within = self._inside(middle[:, None, None, None] * delta)
            inside, outside = torch.where(within, middle, inside), torch.where(within, outside, middle)
        return torch.where(finite & self.finite, inside, 0.0)


def _finite(values: Tensor) -> tuple[Tensor, Tensor]:
    finite = torch.isfinite(values).flatten(1).all(1)
    return torch.where(finite[:, None, None, None], values, 0.0), finite


def _least_square(local: LocalBall | None, statistic: Tensor) -> Tensor:
    """The least squared statistic of `x + d` over a local ball, whose centre is `(1 + k) x`."""
    if local is None:
        return torch.zeros_like(statistic)
    return ((1 + local.k) * statistic - local.radius).clamp_min(0) ** 2


def _level(value: Level | None, name: str, shape: tuple[int, int, int, int], device: torch.device) -> Tensor | None:
    if value is None:
        return None
    try:
        level = torch.as_tensor(value, dtype=torch.float64, device=device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must lie in (0, 1), got {shown(value)}") from error
    if not bool(((level > 0) & (level < 1)).all()):
        raise InputError(f"{name} must lie in (0, 1), got {value if level.ndim == 0 else 'a tensor outside it'}")
    level = _aligned(level)
    try:
        level.expand(shape)
    except RuntimeError:
        raise InputError(f"{name} of shape {tuple(level.shape)} does not broadcast to {shape}") from None
    return level


def _aligned(level: Tensor) -> Tensor:
    """A number or one per image as `(B or 1, 1, 1, 1)`; maps as `(B or 1, C or 1, h or 1, w or 1)`."""
    if level.ndim <= 1:
        return level.reshape(-1, 1, 1, 1)
    return level.reshape((1,) * (4 - level.ndim) + tuple(level.shape))
