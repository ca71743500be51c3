"""What an attack asks of a model: logits, the goal's value and its gradient, and whether the goal is met."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from percep.attacks.criteria import (
    GradientFunction,
    achieved,
    are_probabilities,
    logit_difference,
    loss,
    margin,
    scores,
)
from percep.attacks.network import Network, plain
from percep.attacks.validation import check_logits
from percep.choices import Loss
from percep.errors import InputError
from percep.precision import under_current_autocast
from percep.validation.class_indices import ClassIndices, as_class_indices


class Objective:
    """A batch's model, labels and targets. Methods take the indices `images` of the images they are about.

    The model and the caller's gradient function run under the modes of torch under which it was made.

    Args:
        model: maps `(n, C, H, W)` images to `(n, K)` logits.
        gradient: the caller's own gradient function, or None.
        loss_name: of what is increased.
        top_k: of the goal.
        labels, targets: one class index per image.
        images: the batch; only its length and device matter.

    Raises:
        InputError: a module in train mode, labels or targets of a wrong shape or type.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        gradient: GradientFunction | None,
        loss_name: Loss,
        top_k: int,
        labels: ClassIndices,
        targets: ClassIndices | None,
        images: Tensor,
    ) -> None:
        batch, device = len(images), images.device
        self.network = Network(model, together=batch > 1)
        self.custom_gradient = None if gradient is None else under_current_autocast(gradient)
        self.loss_name, self.top_k = loss_name, top_k
        with torch.inference_mode(False):
            self.labels = plain(as_class_indices("labels", labels, batch, device))
            self.targets = None if targets is None else plain(as_class_indices("targets", targets, batch, device))
            # An image's first logits, those of its reference, tell whether the model gives it probabilities.
            self._evaluated = torch.zeros(batch, dtype=torch.bool, device=device)
            self._gives_probabilities = self._evaluated.clone()

    def logits(self, inputs: Tensor, images: Tensor) -> Tensor:
        """The model's `(n, K)` logits, checked; with a graph where `inputs` require a gradient.

        Raises:
            InputError: logits of another shape, labels, targets or top_k that do not fit them.
        """
        logits = self.network(inputs)
        check_logits(logits, len(images), *self.goals(images))
        if logits.shape[1] <= self.top_k:
            raise InputError(f"top_k must be below the number of classes, {logits.shape[1]}, got {self.top_k}")
        new = ~self._evaluated[images]
        if bool(new.any()):
            self._gives_probabilities[images[new]] = are_probabilities(logits.detach()[new])
            self._evaluated[images] = True
        return logits

    def differentiate(
        self, inputs: Tensor, logits: Tensor, images: Tensor, kept: Tensor, runners_up: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is to be increased, `(m,)`, and its gradient `(m, C, H, W)`; 0 where nothing depends on the input.

        With a gradient function of the caller's the value is the model's margin, and the gradient of unknown length.

        Args:
            inputs: `(n, C, H, W)`, requiring a gradient unless the attack has a gradient function.
            logits: `(n, K)` of all inputs, in their graph.
            images: `(n,)` indices of the inputs' images.
            kept: `(m,)`, places of the inputs that are meant.
            runners_up: `(m,)`, a class to be led past the label instead, or -1.

        Raises:
            InputError: a gradient function's gradient that is not of its images' shape.
        """
        labels, targets = self.goals(images[kept])
        if self.custom_gradient is not None:
            shown = inputs.detach()[kept]
            _, gradient = self.custom_gradient(shown, labels, targets)
            if not isinstance(gradient, Tensor) or gradient.shape != shown.shape:
                found = tuple(gradient.shape) if isinstance(gradient, Tensor) else type(gradient).__name__
                raise InputError(
                    f"the gradient function must give (values, gradients {tuple(shown.shape)}), got {found}"
                )
            return self.margin(logits.detach()[kept], images[kept]), plain(gradient).to(shown)
        outputs = scores(logits[kept], self._gives_probabilities[images[kept]])
        values = loss(self.loss_name, outputs, labels, targets, self.top_k)
        values = torch.where(runners_up >= 0, logit_difference(outputs, labels, runners_up.clamp_min(0)), values)
        if not values.requires_grad:
            return values, torch.zeros_like(inputs[kept])
        (gradient,) = torch.autograd.grad(values.sum(), inputs, materialize_grads=True, allow_unused=True)
        return values.detach(), gradient[kept]

    def margin(self, logits: Tensor, images: Tensor) -> Tensor:
        """`(n,)`, the margin of the goal, positive where it is met."""
        return margin(scores(logits, self._gives_probabilities[images]), *self.goals(images), self.top_k)

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
