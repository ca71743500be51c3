"""Insertion and deletion of a perturbation, block by block, in the order of a map."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from percep.attacks.criteria import margin
from percep.attacks.validation import check_logits
from percep.errors import InputError
from percep.explain.logits import Model, logits_function
from percep.explain.statistics.similarity import block_means, upsampled_blocks
from percep.validation.class_indices import ClassIndices, as_class_indices
from percep.validation.images import require_images

Kind = Literal["insertion", "deletion"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Curve:
    """The attack's margin while blocks of the perturbation are added, or removed.

    Attributes:
        blocks: `(K + 1,)` float64, share of the blocks treated so far, from 0 to 1.
        energy: `(B, K + 1)` float64, share of the perturbation's squared norm in them, from 0 to 1; NaN where there is
            no perturbation. An order that follows the energy alone is recognised by it.
        margins: `(B, K + 1)` float64, positive where the attack succeeds: best other logit minus the label's, or the
            target's minus the best other.
    """

    blocks: Tensor
    energy: Tensor
    margins: Tensor

    @property
    def progress(self) -> Tensor:
        """`(B, K + 1)`: margins from 0 at the first to 1 at the last; NaN where the two are equal."""
        first, last = self.margins[:, :1], self.margins[:, -1:]
        return torch.where(last == first, torch.nan, (self.margins - first) / (last - first))

    @property
    def area(self) -> Tensor:
        """`(B,)`: area under `progress` over the share of blocks, by trapezoids; 1/2 where every block counts alike.

        Large where the blocks that come first have most of the effect, for insertion and deletion alike: the two differ
        only as far as the effects of blocks do not add up.
        """
        return torch.trapezoid(self.progress, self.blocks[None], dim=1)

    @property
    def area_by_energy(self) -> Tensor:
        """`(B,)`: area under `progress` over the share of energy; 1/2 if a block's effect is its share of energy."""
        return torch.trapezoid(self.progress, self.energy, dim=1)

    @property
    def flips(self) -> Tensor:
        """`(B,)`: least share of blocks from which on the margin has its final sign; NaN if the sign never changes.

        For a successful attack: how much of it insertion needs, and how much of it deletion may remove.
        """
        last = self.margins[:, -1:] > 0
        final = ((self.margins > 0) == last).flip(1).cumprod(1).flip(1).bool()
        at = final.int().argmax(1)
        changed = (self.margins[:, 0] > 0) != last[:, 0]
        return torch.where(changed, self.blocks[at], torch.nan)


def insertion(
    model: Model,
    reference: Tensor,
    delta: Tensor,
    order: Tensor,
    labels: ClassIndices,
    targets: ClassIndices | None = None,
    *,
    side: int = 8,
    steps: int = 16,
) -> Curve:
    """The margin while the perturbation is added to the reference, blocks with the greatest map values first.

    After the insertion metric of Petsiuk, Das, Saenko (BMVC 2018), on the perturbation in place of the image, so that
    the changes of every image along the curve are imperceptible. Forward passes only, `steps + 1` of the whole batch.

    Args:
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits; any callable, in eval mode.
        reference: `(B, C, H, W)`, floating point in [0, 1].
        delta: `(B, C, H, W)`, with `reference + delta` in [0, 1].
        order: `(B, H, W)`, finite: blocks are sorted by its mean over them, equal ones from top left to bottom right.
        labels, targets: `(B,)` class indices: tensors, arrays or lists of integers; targets None for an untargeted
            attack.
        side: of a block, in pixels.
        steps: how many groups, about equally many blocks each; at most the number of blocks.

    Raises:
        InputError: tensors that are not images, a model in train mode or without logits, shapes that do not fit,
            labels or targets that are no classes of the model's, an order that is not finite, or steps out of range.
    """
    return _curve(model, reference, delta, order, labels, targets, side, steps, add=True)


def deletion(
    model: Model,
    reference: Tensor,
    delta: Tensor,
    order: Tensor,
    labels: ClassIndices,
    targets: ClassIndices | None = None,
    *,
    side: int = 8,
    steps: int = 16,
) -> Curve:
    """The margin while the perturbation is removed from the adversarial image; all else as for `insertion`."""
    return _curve(model, reference, delta, order, labels, targets, side, steps, add=False)


@torch.no_grad()
def curves(
    model: Model,
    reference: Tensor,
    delta: Tensor,
    orders: Mapping[str, Tensor],
    labels: ClassIndices,
    targets: ClassIndices | None = None,
    *,
    side: int = 8,
    steps: int = 16,
) -> dict[tuple[Kind, str], Curve]:
    """`insertion` and `deletion` in several orders, whose first and last images are evaluated once for all.

    Args:
        orders: by name, `(B, H, W)` each; all else as for `insertion`.

    Returns:
        By "insertion" or "deletion" and the order's name.

    Raises:
        InputError: as for `insertion`.
    """
    path = _Path.of(model, reference, delta, labels, targets)
    return {
        (kind, name): path.curve(order, side, steps, add=kind == "insertion")
        for kind in KINDS
        for name, order in orders.items()
    }


@torch.no_grad()
def _curve(
    model: Model,
    reference: Tensor,
    delta: Tensor,
    order: Tensor,
    labels: ClassIndices,
    targets: ClassIndices | None,
    side: int,
    steps: int,
    *,
    add: bool,
) -> Curve:
    return _Path.of(model, reference, delta, labels, targets).curve(order, side, steps, add=add)


@dataclass(frozen=True)
class _Path:
    """What all curves of a perturbation share: the margin's function, and its values without and with all of it."""

    margins: Callable[[Tensor], Tensor]
    reference: Tensor
    delta: Tensor
    without: Tensor
    full: Tensor

    @classmethod
    def of(
        cls, model: Model, reference: Tensor, delta: Tensor, labels: ClassIndices, targets: ClassIndices | None
    ) -> "_Path":
        require_images(reference, "reference")
        logits_of = logits_function(model)
        if reference.shape != delta.shape:
            raise _shapes(reference, delta)
        own = as_class_indices("labels", labels, len(reference), reference.device)
        goals = None if targets is None else as_class_indices("targets", targets, len(reference), reference.device)

        def margins(images: Tensor) -> Tensor:
            logits = logits_of(images)
            check_logits(logits, len(reference), own, goals)
            return margin(logits, own, goals).double()

        return cls(margins, reference, delta, margins(reference), margins(reference + delta))

    def curve(self, order: Tensor, side: int, steps: int, *, add: bool) -> Curve:
        reference, delta = self.reference, self.delta
        if order.shape != (len(delta), *delta.shape[-2:]):
            raise _shapes(reference, delta, order)
        values = block_means(order, side)
        if not bool(torch.isfinite(values).all()):
            raise InputError("the order of a curve must be finite")
        count = values.shape[1:].numel()
        if not 1 <= steps <= count:
            raise InputError(f"a curve over {count} blocks has 1 to {count} steps, got {steps}")
        rank = _ranks(values, side, (int(delta.shape[-2]), int(delta.shape[-1])))
        squared = delta.double().square().sum(1)
        total = squared.flatten(1).sum(1)
        energy, margins, shares = [], [], []
        for step in range(steps + 1):
            treated = rank < round(step * count / steps)
            if step in (0, steps):
                margins.append(self.full if (step == steps) == add else self.without)
            else:
                margins.append(self.margins(reference + delta * (treated if add else ~treated)[:, None]))
            energy.append((squared * treated).flatten(1).sum(1) / total)
            shares.append(round(step * count / steps) / count)
        blocks = torch.tensor(shares, dtype=torch.float64, device=delta.device)
        return Curve(blocks, torch.stack(energy, 1), torch.stack(margins, 1))


def _shapes(*tensors: Tensor) -> InputError:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
    return InputError(f"reference, delta and order must be (B, C, H, W), (B, C, H, W) and (B, H, W), got {shapes}")


def _ranks(values: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """`(B, *size)`, the place of each pixel's block in the order of `(B, h, w)` values, 0 for the greatest."""
    ranked = values.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(ranked.shape[1], device=ranked.device).expand_as(ranked)
    rank = torch.empty_like(ranked).scatter(1, ranked, places).reshape(values.shape)
    return upsampled_blocks(rank, side, size)
