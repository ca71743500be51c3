"""How a search continues from a perturbation at which the model has no gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from percep.attacks.quantisation import quantise_perturbation
from percep.attacks.result import AttackStatus
from percep.attacks.search.batch import Search

# How often a perturbation without a gradient is doubled before it is halved.
_DOUBLINGS = 4


def resume(search: Search, images: Tensor, met: Tensor) -> Tensor:
    """Moves images without a gradient; returns the indices of those that continue, ascending.

    An adversarial one returns to the boundary, first on its adversarial side, then on the other. One that is not is
    moved outwards until it crosses the boundary, or else halfway back to its reference. If there is no gradient at the
    reference, `_STARTS` are tried until one is adversarial.

    Args:
        search: of the batch.
        images: indices `(n,)`.
        met: `(n,)` bool, which of them are adversarial.
    """
    left = search.tracker.gradient_calls[images] < search.gradients
    images, met = images[left], met[left]
    moved = (search.state.delta[images] != 0).flatten(1).any(1)
    first = search.tracker.gradient_calls[images] == 1
    at_end = met.new_tensor([search.bracket_ends[image] is not None for image in images.tolist()])
    continuing = [
        *_start_elsewhere(search, images[~moved & first]),
        *_return_to_boundary(search, images[moved & ~at_end & met], images[moved & ~at_end & ~met]),
        *(image for image in images[moved & at_end].tolist() if _try_other_end(search, image)),
        *(image for image in images[~moved & ~first].tolist() if search.leave_dead_end(image)),
    ]
    return torch.tensor(sorted(continuing), dtype=torch.int64, device=images.device)


def _return_to_boundary(search: Search, adversarial: Tensor, missed: Tensor) -> list[int]:
    """Moves adversarial images to the boundary, the others beyond it or halfway back; the images that continue."""
    farther = search.state.delta[missed]
    for _ in range(_DOUBLINGS):
        if not len(missed):
            break
        farther = quantise_perturbation(2 * farther, search.reference[missed], search.levels)
        crossed = search.is_adversarial(missed, farther)
        search.state.delta[missed[crossed]] = farther[crossed]
        adversarial = torch.cat([adversarial, missed[crossed]])
        missed, farther = missed[~crossed], farther[~crossed]
    _begin_at_boundary(search, adversarial, search.state.delta[adversarial])
    halved = quantise_perturbation(search.state.delta[missed] / 2, search.reference[missed], search.levels)
    search.state.delta[missed] = halved
    returned = [
        image
        for image, delta in zip(missed.tolist(), halved, strict=True)
        if bool((delta != 0).any()) or search.leave_dead_end(image)
    ]
    return adversarial.tolist() + returned


def _begin_at_boundary(search: Search, images: Tensor, delta: Tensor) -> None:
    """Continues from the boundary on the rays of adversarial perturbations, on its adversarial side."""
    if len(images):
        for image, outer, inner in zip(images.tolist(), *search.bracket(images, delta), strict=True):
            search.begin_at(image, outer, [inner])


def _try_other_end(search: Search, image: int) -> bool:
    """Continues from the other side of the boundary, after the first; whether the image continues."""
    if not (ends := search.bracket_ends[image]):
        return search.leave_dead_end(image)
    search.begin_at(image, ends[0], [])
    return True


def _start_elsewhere(search: Search, images: Tensor) -> list[int]:
    """Continues from an adversarial image where the reference has no gradient; the images for which one was found."""
    found: list[int] = []
    images = images[[search.tracker.status[image] is AttackStatus.NO_GRADIENT for image in images.tolist()]]
    for start in _STARTS:
        if not len(images):
            break
        reference = search.reference[images]
        delta = quantise_perturbation(
            start(reference, search.state.average[images]) - reference, reference, search.levels
        )
        logits = search.evaluate(images, delta)
        met = search.objective.achieved(logits, images)
        if bool(met.any()):  # the others are far from the boundary, and bound nothing
            search.record_outcomes(images[met], delta[met], logits[met])
            _begin_at_boundary(search, images[met], delta[met])
        found += images[met].tolist()
        images = images[~met]
    return found


def _corner(reference: Tensor, sign: Tensor) -> Tensor:
    """As far as the pixel range allows in the signs of a gradient that is too small to be followed."""
    return torch.where(sign > 0, 1.0, torch.where(sign < 0, 0.0, reference))


def _negative(reference: Tensor, _: Tensor) -> Tensor:
    return 1 - reference


def _grey(reference: Tensor, _: Tensor) -> Tensor:
    return torch.full_like(reference, 0.5)


def _noise(reference: Tensor, _: Tensor) -> Tensor:
    """The same uniform noise for every image, independent of the global generator."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(reference.shape[1:], generator=generator, dtype=reference.dtype)
    return noise.to(reference.device).expand_as(reference)


_STARTS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_corner, _negative, _grey, _noise)
