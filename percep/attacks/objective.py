"""What an attack asks of a model: logits, the goal's value and its gradient, and whether the goal is met."""

from collections.abc import Callable

import torch
from torch import Tensor

from percep.attacks.criteria import GradientFunction, Loss, achieved, lead, loss
from percep.attacks.inputs import check_classes, check_logits, check_model
from percep.errors import InputError


class Objective:
    """A batch's model, labels and targets. Methods take the indices `images` of the images they are about.

    Raises:
        InputError: a module in train mode, labels or targets of a wrong shape or type.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        gradient: GradientFunction | None,
        name: Loss,
        top_k: int,
        labels: Tensor,
        targets: Tensor | None,
        images: Tensor,
    ) -> None:
        check_model(model)
        check_classes(len(images), labels, targets)
        self.model, self.own, self.name, self.top_k = model, gradient, name, top_k
        self.labels = labels.to(images.device)
        self.targets = None if targets is None else targets.to(images.device)

    def logits(self, inputs: Tensor, images: Tensor) -> Tensor:
        """The model's `(n, K)` logits, checked; with a graph where `inputs` require a gradient.

        Raises:
            InputError: logits of another shape, labels, targets or top_k that do not fit them.
        """
        logits = self.model(inputs)
        check_logits(logits, len(images), *self.goals(images))
        if logits.shape[1] <= self.top_k:
            raise InputError(f"top_k must be below the number of classes, {logits.shape[1]}, got {self.top_k}")
        return logits

    def differentiate(
        self, inputs: Tensor, logits: Tensor, images: Tensor, kept: Tensor, rivals: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is to be increased, `(m,)`, and its gradient `(m, C, H, W)`; 0 where nothing depends on the input.

        Args:
            inputs: `(n, C, H, W)`, requiring a gradient unless the attack has a gradient function.
            logits: `(n, K)` of all inputs, in their graph.
            images: `(n,)` indices of the inputs' images.
            kept: `(m,)`, places of the inputs that are meant.
            rivals: `(m,)`, a class to be led past the label instead, or -1.
        """
        labels, targets = self.goals(images[kept])
        if self.own is not None:
            values, gradient = self.own(inputs.detach()[kept], labels, targets)
            return values.detach(), gradient.detach()
        values = loss(self.name, logits[kept], labels, targets, self.top_k)
        values = torch.where(rivals >= 0, lead(logits[kept], labels, rivals.clamp_min(0)), values)
        if not values.requires_grad:
            return values, torch.zeros_like(inputs[kept])
        (gradient,) = torch.autograd.grad(values.sum(), inputs, materialize_grads=True, allow_unused=True)
        return values.detach(), gradient[kept]

    def achieved(self, logits: Tensor, images: Tensor) -> Tensor:
        """`(n,)` bool, whether the goal is met."""
        return achieved(logits, *self.goals(images), self.top_k)

    def likely(self, logits: Tensor, label: int, count: int) -> list[int]:
        """The `count` best classes of one image, best first, without its label."""
        others = logits.clone()
        others[label] = -torch.inf
        return others.topk(min(count, len(logits) - 1)).indices.tolist()

    def goals(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Labels and targets of some images."""
        return self.labels[images], None if self.targets is None else self.targets[images]
