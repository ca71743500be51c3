"""Regions that a perturbation is restricted to in causal experiments, and its rescaling to a budget."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from percep.attacks.cost import Cost
from percep.errors import InputError
from percep.explain.interventions.controls import phase_shuffled
from percep.ssim import C1, C2, Losses, View
from percep.validation.images import require_images
from percep.validation.scalars import require_level
from percep.windows import Window

_MAX_FACTOR, _MAX_STEPS = 2.0**12, 60
# Averages of float32 losses are good to some 1e-6 of themselves.
_TOLERANCE, _REACHED, _TINY = 1e-5, 1e-4, 1e-300


def top_region(maps: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """`(B, H, W)` bool: the top `share` of each map, exactly `round(share H W)` pixels, and at least one.

    Ties at the threshold are broken at random, so that where a map is zero no part of the image is preferred.

    Args:
        maps: `(B, H, W)`, finite.
        share: in (0, 1).
        generator: on the CPU.

    Raises:
        InputError: another shape, values that are not finite, or a share outside (0, 1).
    """
    _check_maps(maps)
    share = require_level("share", share)
    flat = maps.detach().flatten(1)
    count = max(1, round(share * flat.shape[1]))
    shuffled = torch.rand(flat.shape, generator=generator).argsort(1).to(maps.device)
    ranked = flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    chosen = shuffled.gather(1, ranked[:, :count])
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, chosen, True).reshape(maps.shape)


@dataclass(frozen=True)
class MatchedRegion:
    """A region with another region's area and distribution of texture.

    Attributes:
        mask: `(B, H, W)` bool, with the other region's area and disjoint from it, or almost.
        distance: `(B,)` float64, Kolmogorov-Smirnov statistic of the two regions' distributions of texture, in [0, 1];
            0 for the same distribution, NaN for an empty region.
    """

    mask: Tensor
    distance: Tensor


def matched_region(mask: Tensor, texture: Tensor, generator: torch.Generator, bins: int = 10) -> MatchedRegion:
    """A region disjoint from the mask, with the mask's area and its distribution of texture.

    Pixels are sorted into `bins` quantiles of the image's texture. In each quantile as many pixels outside the mask are
    selected as the mask has, those with the greatest values of a smooth random field (the mask's spectrum with shuffled
    phases, averaged over a 28th of the image), so that the region consists of patches. Its outline is still about four
    times as long as that of the top fifth of Grad-CAM, and outlines cost SSIM: compare with `random_region`, which is
    as coherent as the mask and matches nothing. Where a quantile has too few pixels, the nearest quantiles supply the
    others; `distance` measures the match.

    Args:
        mask: `(B, H, W)` bool, at most half of each image.
        texture: `(B, H, W)`, finite: `local_standard_deviation` of the reference, or another confound.
        generator: on the CPU.
        bins: number of quantiles, at least 1.

    Raises:
        InputError: shapes that differ, a mask that covers more than half of an image, texture that is not finite, or no
            bins.
    """
    _check_maps(texture)
    if mask.shape != texture.shape or mask.dtype != torch.bool:
        raise InputError(
            f"a matched region needs a bool mask of the texture's shape {tuple(texture.shape)}, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
    if bins < 1:
        raise InputError(f"bins must be at least 1, got {bins}")
    inside, values = mask.flatten(1).cpu(), texture.detach().double().flatten(1).cpu()
    pixels = inside.shape[1]
    if bool((2 * inside.sum(1) > pixels).any()):
        raise InputError(
            "a mask of more than half of the image leaves too few pixels for a disjoint region of its area"
        )
    field = _smooth(phase_shuffled(mask.double().cpu(), generator)).flatten(1)
    # Ties are sorted at random, so that bins are equally large in flat images too.
    order = torch.rand(values.shape, generator=generator).argsort(1)
    order = order.gather(1, values.gather(1, order).argsort(dim=1, stable=True))
    places = torch.arange(pixels).expand_as(order)
    bin_of = torch.empty_like(order).scatter(1, order, places * bins // pixels)
    chosen = torch.zeros_like(inside)
    for image in range(len(inside)):
        counts = _counts(inside[image], bin_of[image], bins)
        for number, count in enumerate(counts):
            candidates = torch.nonzero((bin_of[image] == number) & ~inside[image]).flatten()
            chosen[image, candidates[field[image, candidates].topk(count).indices]] = True
    pairs = zip(values, inside, chosen, strict=True)
    distances = [_distances(texture, own, other[None]) for texture, own, other in pairs]
    distance = torch.cat(distances) if distances else torch.zeros(0, dtype=torch.float64)
    return MatchedRegion(chosen.reshape(mask.shape).to(mask.device), distance.to(mask.device))


def random_region(mask: Tensor, generator: torch.Generator) -> Tensor:
    """The mask under a random toroidal shift, which preserves its area and autocorrelation.

    All shifts are equally likely, so the expected overlap with the mask is that of independent regions.

    Args:
        mask: `(B, H, W)`.
        generator: on the CPU.
    """
    rows, columns = (int(side) for side in mask.shape[-2:])
    rolled = [
        image.roll(
            (
                int(torch.randint(rows, (), generator=generator)),
                int(torch.randint(columns, (), generator=generator)),
            ),
            (0, 1),
        )
        for image in mask
    ]
    return torch.stack(rolled) if rolled else mask.clone()


def shifted_region(
    mask: Tensor, texture: Tensor, generator: torch.Generator, draws: int = 64, overlap: float = 0.1
) -> MatchedRegion:
    """The mask under the toroidal shift, of some random ones, whose texture is most like the mask's own.

    The counterpart of `matched_region`: the outline is that of the mask, and the distribution of texture only as close
    as that of the best shift: see `distance`.

    Args:
        mask: `(B, H, W)` bool.
        texture: `(B, H, W)`, finite.
        generator: on the CPU.
        draws: number of random shifts.
        overlap: largest share of the mask that may be covered; if every shift covers more, the least overlap is taken.

    Raises:
        InputError: shapes that differ, texture that is not finite, or no draws.
    """
    _check_maps(texture)
    if mask.shape != texture.shape or mask.dtype != torch.bool or draws < 1:
        raise InputError(
            f"a shifted region needs a bool mask of the texture's shape {tuple(texture.shape)} and at least one draw, "
            f"got {mask.dtype} {tuple(mask.shape)} and {draws}"
        )
    best, distances = mask.clone(), torch.full((len(mask),), torch.nan, dtype=torch.float64)
    for image in range(len(mask)):
        own, values = mask[image].cpu(), texture[image].detach().cpu().flatten()
        tried = random_region(own.expand(draws, *own.shape), generator)
        shared = (tried & own).flatten(1).sum(1) / own.sum().clamp_min(1)
        tried = tried[shared <= max(overlap, float(shared.min()))]
        found = _distances(values, own, tried)
        number = int(found.argmin())
        best[image] = tried[number].to(mask.device)
        distances[image] = found[number]
    return MatchedRegion(best, distances.to(mask.device))


def _distances(values: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """Kolmogorov-Smirnov statistics of the values `(N,)` inside one region and inside each of others, `(K, ...)`.

    NaN for an empty region.
    """
    ranked = values.argsort()
    # A distribution function is defined after the last of equal values.
    ends = torch.ones_like(ranked, dtype=torch.bool)
    ends[:-1] = values[ranked][1:] != values[ranked][:-1]

    def distribution(masks: Tensor) -> Tensor:
        below = masks.flatten(1)[:, ranked].cumsum(1, dtype=torch.int32)
        return (below if bool(ends.all()) else below[:, ends]) / below[:, -1:].double()

    return (distribution(own[None]) - distribution(others)).abs().amax(1)


@dataclass(frozen=True)
class Restricted:
    """Perturbations confined to regions.

    Attributes:
        delta: `(B, C, H, W)`, 0 outside the regions, with `reference + delta` in [0, 1].
        factor: `(B,)` float64, by which the perturbation inside was multiplied.
        spent: `(B,)` float64, 1 - mean SSIM of `reference + delta`.
        reached: `(B,)` bool: whether the budget is spent to within a ten-thousandth of it; True without a budget.
    """

    delta: Tensor
    factor: Tensor
    spent: Tensor
    reached: Tensor


def restrict(
    reference: Tensor, delta: Tensor, mask: Tensor, budget: Tensor | None = None, window: Window | None = None
) -> Restricted:
    """The perturbation restricted to a region: unchanged inside, or rescaled to spend a budget.

    Without a budget a smaller region spends less, so its gain in margin is the region's share of the attack's. With the
    budget of the full perturbation (`dissimilarity`), regions are compared at equal visibility: the perturbation inside
    is scaled up, and clipped to the pixel range, until the image's mean SSIM is the same. That may be impossible: see
    `reached`. A rescaled perturbation is not rounded to 8 bits.

    Args:
        reference: `(B, C, H, W)`, floating point in [0, 1].
        delta: `(B, C, H, W)`, finite.
        mask: `(B, H, W)` bool; all True to rescale a full perturbation.
        budget: `(B,)`, at least 0: 1 - mean SSIM to be spent.
        window: the SSIM window, `Window.gaussian()` by default.

    Raises:
        InputError: a reference that is no images, shapes that do not fit, or a negative budget.
    """
    require_images(reference, "reference")
    if reference.shape != delta.shape or mask.shape != (len(delta), *delta.shape[-2:]):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (reference, delta, mask))
        raise InputError(f"reference, delta and mask must be (B, C, H, W), (B, C, H, W) and (B, H, W), got {shapes}")
    inside, lower, upper = (delta * mask[:, None]).to(reference.dtype), -reference, 1 - reference
    cost = _cost(reference.detach(), window)

    def scaled(factor: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(inside * _per_image(factor, inside), lower), upper)

    def spent(factor: Tensor) -> Tensor:
        return _mean_loss(cost, scaled(factor))

    factor = torch.ones(len(delta), dtype=torch.float64, device=delta.device)
    if budget is None:
        return Restricted(
            scaled(factor).to(delta.dtype), factor, spent(factor), torch.ones_like(factor, dtype=torch.bool)
        )
    goal = budget.to(factor)
    if goal.shape != factor.shape or not bool((goal >= 0).all()):
        raise InputError("budget must be one number of at least 0 per image")
    # Close to the factor along the ray without clipping, whose averages are taken once.
    factor, _ = _factor(_along_ray(cost.view, inside), factor, goal)
    factor, final_spent = _factor(spent, factor, goal)
    reached = (final_spent - goal).abs() <= _REACHED * goal
    return Restricted(scaled(factor).to(delta.dtype), factor, final_spent, reached)


def _along_ray(view: View, delta: Tensor) -> Callable[[Tensor], Tensor]:
    """1 - mean SSIM of `reference + factor * delta`, `(B,)` from `(B,)`, without the pixel range."""
    moments = view.moments(delta)
    mean, variance, covariance = moments.mean, moments.variance.clamp_min(0), moments.covariance
    squared_mean, product = mean.square(), view.reference_mean * mean
    luminance, contrast = 2 * view.reference_mean.square() + C1, 2 * view.reference_variance + C2

    def spent(factor: Tensor) -> Tensor:
        f = _per_image(factor, mean)
        moved, spread = f * f * squared_mean, f * f * variance
        losses = Losses(
            moved / (luminance + 2 * f * product + moved),
            spread / (contrast + 2 * f * covariance + spread).clamp_min(C2),
        )
        return losses.total().flatten(1).mean(1, dtype=torch.float64)

    return spent


def dissimilarity(reference: Tensor, delta: Tensor, window: Window | None = None) -> Tensor:
    """`(B,)` float64: 1 - mean SSIM of `reference + delta`, over channels and windows.

    Raises `InputError` for a reference that is not `(B, C, H, W)`, floating point in [0, 1], or another shape of delta.
    """
    require_images(reference, "reference")
    if reference.shape != delta.shape:
        shapes = f"{tuple(reference.shape)} and {tuple(delta.shape)}"
        raise InputError(f"reference and delta must be of one shape (B, C, H, W), got {shapes}")
    return _mean_loss(_cost(reference.double(), window), delta.double())


def _cost(reference: Tensor, window: Window | None) -> Cost:
    return Cost.of_reference(reference, Window.gaussian() if window is None else window, "mean")


def _mean_loss(cost: Cost, delta: Tensor) -> Tensor:
    """1 - mean SSIM of the reference plus `delta`, `(B,)`, summed in float64."""
    return cost.losses(cost.reference + delta).flatten(1).mean(1, dtype=torch.float64)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, None, None, None]


def _factor(spent: Callable[[Tensor], Tensor], start: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """The factor at which `spent` is the goal, or the largest one tried where no factor reaches it; and what is spent.

    1 - SSIM grows about as the square of the factor, and more slowly where values are clipped. The next guess is
    that of the secant method in logarithms; outside the bracket, the bracket is bisected instead.
    """
    factor, low, high = start, torch.zeros_like(start), torch.full_like(start, torch.inf)
    power = torch.full_like(start, 2.0)
    before: tuple[Tensor, Tensor] | None = None
    for step in range(1, _MAX_STEPS + 1):
        value = spent(factor)
        short = value < goal
        done = ((value - goal).abs() <= _TOLERANCE * goal) | (short & (factor >= _MAX_FACTOR))
        if step == _MAX_STEPS or bool(done.all()):
            break
        low, high = torch.where(short, factor, low), torch.where(short, high, factor)
        if before is not None:
            slope = (value / before[1]).log() / (factor / before[0]).log()
            power = torch.where(torch.isfinite(slope) & (slope > 0), slope, power)
        before = factor, value
        guess = factor * (goal / value.clamp_min(_TINY)) ** (1 / power)
        middle = torch.where(torch.isinf(high), 2 * factor, (low + high) / 2)
        moved = torch.where((guess >= low) & (guess < high), guess, middle).clamp_max(_MAX_FACTOR)
        factor = torch.where(done, factor, moved)
    return factor, value


def _counts(inside: Tensor, bin_of: Tensor, bins: int) -> list[int]:
    """Number of pixels to select outside per bin: as many as are inside, with shortfalls moved to the nearest bins."""
    wanted = torch.bincount(bin_of[inside], minlength=bins).tolist()
    free = torch.bincount(bin_of[~inside], minlength=bins).tolist()
    taken = [min(want, available) for want, available in zip(wanted, free, strict=True)]
    for number in range(bins):
        missing = wanted[number] - min(wanted[number], free[number])
        for other in sorted(range(bins), key=lambda place: abs(place - number)):
            extra = min(missing, free[other] - taken[other])
            taken[other] += extra
            missing -= extra
    return [int(count) for count in taken]


def _smooth(field: Tensor) -> Tensor:
    sigma = min(field.shape[-2:]) / 28
    return Window.gaussian(2 * round(3 * sigma) + 1, sigma).mean(field)


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 3 or not bool(torch.isfinite(maps).all()):
        raise InputError(f"regions are made of finite maps (B, H, W), got {tuple(maps.shape)}")
