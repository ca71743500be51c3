"""What both attacks keep of each image: the best one so far, its status, the passes it took, and whether it goes on."""

import torch
from torch import Tensor

from percep.attacks.result import AttackResult, AttackStatus
from percep.windows import Window


class Tracker:
    """How the attack of each image of a batch stands. `images` are always indices `(n,)` into the batch.

    Attributes:
        reference: `(B, C, H, W)` in [0, 1].
        finite: `(B,)` bool; images that are not finite are never attacked.
        active: `(m,)` int64, the images that are still attacked.
        best: `(B, C, H, W)`, the images of least cost so far, in the beginning the references.
        best_cost: `(B,)`, their costs, in the beginning infinite. What is least is the attack's to say.
        status: one per image.
        labels_before, labels_after: `(B,)` int64, the model's predictions on `reference` and `best`, -1 where unknown.
        gradient_calls, forward_calls: `(B,)` int64, passes with and without a gradient.
    """

    def __init__(self, reference: Tensor, finite: Tensor) -> None:
        self.reference, self.finite = reference, finite
        self.active = torch.nonzero(finite).flatten()
        self.best = reference.clone()
        self.best_cost = reference.new_full((len(reference),), torch.inf)
        self.status = [AttackStatus.NOT_FOUND if ok else AttackStatus.NOT_FINITE for ok in finite.tolist()]
        self.gradient_calls = torch.zeros(len(reference), dtype=torch.int64, device=reference.device)
        self.forward_calls = self.gradient_calls.clone()
        self.labels_before, self.labels_after = self.gradient_calls - 1, self.gradient_calls - 1

    def unseen(self, images: Tensor) -> Tensor:
        """`(n,)` bool: which have had no gradient yet, so that what is evaluated first is their references."""
        return self.gradient_calls[images] == 0

    def count_passes(self, images: Tensor, differentiated: Tensor, separately: bool) -> None:
        """Counts a forward pass per image, and a gradient where it was differentiated, `(n,)` bool.

        A pass that is differentiated counts as a gradient alone, unless the gradient was taken `separately`.
        """
        self.forward_calls[images if separately else images[~differentiated]] += 1
        self.gradient_calls[images[differentiated]] += 1

    def record_outcomes(self, images: Tensor, candidates: Tensor, costs: Tensor, logits: Tensor, met: Tensor) -> Tensor:
        """Records what the model says of an image's candidate, the reference where it is the first.

        Args:
            candidates: `(n, C, H, W)`.
            costs: `(n,)`, infinite for candidates that cannot be an answer.
            logits: `(n, K)`.
            met: `(n,)` bool, whether the goal is met.

        Returns:
            `(n,)` bool: which candidates are the best so far.
        """
        finite = torch.isfinite(logits).all(1)
        prediction = torch.where(finite, torch.nan_to_num(logits).argmax(1), -1)
        better, unseen = costs < self.best_cost[images], self.unseen(images)
        improved = images[better]
        self.best[improved], self.best_cost[improved] = candidates[better], costs[better]
        self.labels_after[improved] = prediction[better]
        for labels in (self.labels_before, self.labels_after):
            labels[images] = torch.where(unseen, prediction, labels[images])
        rows = zip(images.tolist(), finite.tolist(), met.tolist(), unseen.tolist(), strict=True)
        for image, known, successful, first in rows:
            if first and not known:
                self.status[image] = AttackStatus.NOT_FINITE
            elif successful:
                self.status[image] = AttackStatus.ALREADY_ADVERSARIAL if first else AttackStatus.ADVERSARIAL
        return better

    def record_gradients(self, images: Tensor, usable: Tensor, finite: Tensor) -> None:
        """Records which gradients can be followed; the status of an image whose first one cannot be says why.

        Args:
            usable: `(n,)` bool.
            finite: `(n,)` bool, whether a gradient is.
        """
        first = self.gradient_calls[images] == 1
        rows = zip(images.tolist(), usable.tolist(), finite.tolist(), first.tolist(), strict=True)
        for image, followed, known, at_reference in rows:
            if followed and self.status[image] is AttackStatus.NO_GRADIENT:
                self.status[image] = AttackStatus.NOT_FOUND
            elif not followed and at_reference:
                self.status[image] = AttackStatus.NO_GRADIENT if known else AttackStatus.NOT_FINITE

    def result(
        self,
        window: Window | None,
        gap: Tensor | None = None,
        floor: float | None = None,
        mean: float | None = None,
    ) -> AttackResult:
        """The best images, measured; the arguments are those of `AttackResult.measured`."""
        return AttackResult.measured(
            self.reference,
            self.best,
            self.status,
            finite=self.finite,
            labels_before=self.labels_before,
            labels_after=self.labels_after,
            gradient_calls=self.gradient_calls,
            forward_calls=self.forward_calls,
            gap=gap,
            floor=floor,
            mean=mean,
            window=window,
        )
