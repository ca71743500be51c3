"""Where a perturbation is kept for the causal tests, and at which size."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from percep.attacks.cost import Cost
from percep.errors import InputError
from percep.explain.interventions.controls import phase_shuffled
from percep.validation.images import require_images
from percep.validation.scalars import require_level
from percep.windows import Window

_LARGEST, _TRIALS = 2.0**12, 60
_CLOSE, _TINY = 1e-7, 1e-300


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
        mask: `(B, H, W)` bool, of the other region's area and outside it, wholly or mostly.
        distance: `(B,)` float64, greatest difference between the two regions' distributions of texture
            (Kolmogorov and Smirnov's), in [0, 1]; 0 for the same distribution, NaN for an empty region.
    """

    mask: Tensor
    distance: Tensor


def matched_region(mask: Tensor, texture: Tensor, generator: torch.Generator, bins: int = 10) -> MatchedRegion:
    """A region outside the mask with the mask's area and its distribution of texture.

    Pixels are sorted into `bins` quantiles of the image's texture, and from each as many are taken outside the mask
    as the mask has there. Which ones is decided by a smooth random field (the mask's spectrum with shuffled phases,
    averaged over a 28th of the image), so that pixels come in patches; their outline still is about four times as long
    as that of the top fifth of Grad-CAM, and outlines cost SSIM, so read this region beside `random_region`, which is
    as coherent as the mask and matches nothing. Where a quantile is exhausted, the shortfall is taken from the
    quantiles nearest to it; `distance` tells how well the match came out.

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
        raise InputError("a mask of more than half of the image leaves no room for a region of its area")
    field = _smooth(phase_shuffled(mask.double().cpu(), generator)).flatten(1)
    # Equal textures are sorted at random, so that bins are equally large also in flat images.
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
    """The mask at a random place: each image's is rolled around the torus, so area and autocorrelation are kept.

    All shifts are equally likely, so on average the mask's share of the region lies inside the mask.

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
    """The mask rolled around the torus to where the texture is most like its own: its area and its outline.

    The counterpart of `matched_region`: an outline as short as the mask's, and a distribution of texture only as close
    as the best of some random places has it. Read `distance`.

    Args:
        mask: `(B, H, W)` bool.
        texture: `(B, H, W)`, finite.
        generator: on the CPU.
        draws: places tried.
        overlap: most of the mask that may still be covered; where no draw is that far off, the farthest is taken.

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
        found = torch.where(shared <= max(overlap, float(shared.min())), _distances(values, own, tried), torch.inf)
        number = int(found.argmin())
        best[image] = tried[number].to(mask.device)
        distances[image] = found[number]
    return MatchedRegion(best, distances.to(mask.device))


def _distances(values: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """Kolmogorov and Smirnov's distance of the values `(N,)` inside one region from those inside others, `(K, ...)`.

    NaN for an empty region.
    """
    ranked = values.argsort()
    # Between equal values there is no step of a distribution to be read.
    ends = torch.ones_like(ranked, dtype=torch.bool)
    ends[:-1] = values[ranked][1:] != values[ranked][:-1]

    def distribution(masks: Tensor) -> Tensor:
        below = masks.flatten(1)[:, ranked].double().cumsum(1)
        return below[:, ends] / below[:, -1:]

    return (distribution(own[None]) - distribution(others)).abs().amax(1)


@dataclass(frozen=True)
class Restricted:
    """Perturbations confined to regions.

    Attributes:
        delta: `(B, C, H, W)`, 0 outside the regions, with `reference + delta` in [0, 1].
        factor: `(B,)` float64, what the perturbation inside was multiplied by.
        spent: `(B,)` float64, 1 - mean SSIM of `reference + delta`.
        reached: `(B,)` bool: a budget that was asked for is spent to within a millionth; True where none was.
    """

    delta: Tensor
    factor: Tensor
    spent: Tensor
    reached: Tensor


def restrict(
    reference: Tensor, delta: Tensor, mask: Tensor, budget: Tensor | None = None, window: Window | None = None
) -> Restricted:
    """The perturbation inside a region only; at its own size, or rescaled to spend a budget.

    Without a budget a smaller region spends less, so a loss of margin is the region's share of the attack. With the
    budget of the whole perturbation (`dissimilarity`), regions are compared at equal visibility: what is inside grows
    until the image's mean SSIM is the same, clipped to the pixel range. That may be out of reach: see `reached`. A
    rescaled perturbation is no longer between 8-bit images.

    Args:
        reference: `(B, C, H, W)`, floating point in [0, 1].
        delta: `(B, C, H, W)`, finite.
        mask: `(B, H, W)` bool; all True rescales a perturbation as it is.
        budget: `(B,)`, at least 0: 1 - mean SSIM to be spent.
        window: the SSIM window, `Window.gaussian()` by default.

    Raises:
        InputError: a reference that is no images, shapes that do not fit, or a negative budget.
    """
    require_images(reference, "reference")
    if reference.shape != delta.shape or mask.shape != (len(delta), *delta.shape[-2:]):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (reference, delta, mask))
        raise InputError(f"reference, delta and mask must be (B, C, H, W), (B, C, H, W) and (B, H, W), got {shapes}")
    kept, least, most = (delta * mask[:, None]).double(), -reference.double(), 1 - reference.double()
    cost = Cost.of_reference(reference.double(), Window.gaussian() if window is None else window, "mean")

    def scaled(factor: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(kept * factor[:, None, None, None], least), most)

    def spent(perturbation: Tensor) -> Tensor:
        return cost.of(cost.losses(cost.reference + perturbation))

    factor = torch.ones(len(delta), dtype=torch.float64, device=delta.device)
    reached = torch.ones_like(factor, dtype=torch.bool)
    if budget is not None:
        goal = budget.to(factor)
        if goal.shape != factor.shape or not bool((goal >= 0).all()):
            raise InputError("budget must be one number of at least 0 per image")
        factor = _factor(lambda tried: spent(scaled(tried)), factor, goal)
    final = scaled(factor)
    lost = spent(final)
    if budget is not None:
        reached = (lost - goal).abs() <= 1e-6 * goal
    return Restricted(final.to(delta.dtype), factor, lost, reached)


def dissimilarity(reference: Tensor, delta: Tensor, window: Window | None = None) -> Tensor:
    """`(B,)` float64: 1 - mean SSIM of `reference + delta`, over channels and windows.

    Raises `InputError` for a reference that is not `(B, C, H, W)`, floating point in [0, 1], or another shape of delta.
    """
    require_images(reference, "reference")
    if reference.shape != delta.shape:
        shapes = f"{tuple(reference.shape)} and {tuple(delta.shape)}"
        raise InputError(f"reference and delta must be of one shape (B, C, H, W), got {shapes}")
    cost = Cost.of_reference(reference.double(), Window.gaussian() if window is None else window, "mean")
    return cost.of(cost.losses(cost.reference + delta.double()))


def _factor(spent: Callable[[Tensor], Tensor], ones: Tensor, goal: Tensor) -> Tensor:
    """The factor at which `spent` meets the goal, or the largest one tried where that is out of reach.

    What is lost grows about as the square of the factor, and as a power that clipping makes smaller: the secant between
    logarithms gives the next guess, and where it leaves the bracket, the bracket is halved.
    """
    factor, low, high = ones, torch.zeros_like(ones), torch.full_like(ones, torch.inf)
    power = torch.full_like(ones, 2.0)
    before: tuple[Tensor, Tensor] | None = None
    for _ in range(_TRIALS):
        value = spent(factor)
        short = value < goal
        done = ((value - goal).abs() <= _CLOSE * goal) | (short & (factor >= _LARGEST))
        if bool(done.all()):
            break
        low, high = torch.where(short, factor, low), torch.where(short, high, factor)
        if before is not None:
            slope = (value / before[1]).log() / (factor / before[0]).log()
            power = torch.where(torch.isfinite(slope) & (slope > 0), slope, power)
        before = factor, value
        guess = factor * (goal / value.clamp_min(_TINY)) ** (1 / power)
        middle = torch.where(torch.isinf(high), 2 * factor, (low + high) / 2)
        step = torch.where((guess >= low) & (guess < high), guess, middle).clamp_max(_LARGEST)
        factor = torch.where(done, factor, step)
    return factor


def _counts(inside: Tensor, bin_of: Tensor, bins: int) -> list[int]:
    """How many pixels to take outside in each bin: as many as are inside, or else from the bins nearest to it."""
    wanted = torch.bincount(bin_of[inside], minlength=bins).tolist()
    free = torch.bincount(bin_of[~inside], minlength=bins).tolist()
    taken = [min(want, room) for want, room in zip(wanted, free, strict=True)]
    for number in range(bins):
        missing = wanted[number] - min(wanted[number], free[number])
        for other in sorted(range(bins), key=lambda place: abs(place - number)):
            extra = min(missing, free[other] - taken[other])
            taken[other] += extra
            missing -= extra
    return [int(count) for count in taken]


def _smooth(field: Tensor) -> Tensor:
    spread = min(field.shape[-2:]) / 28
    return Window.gaussian(2 * round(3 * spread) + 1, spread).mean(field)


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 3 or not bool(torch.isfinite(maps).all()):
        raise InputError(f"regions are made of finite maps (B, H, W), got {tuple(maps.shape)}")
