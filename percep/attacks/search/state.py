"""The state of a run, which every step updates and a restart resets."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

_ZEROED = ("delta", "average", "direction", "shortfall", "largest_margin", "steps")


@dataclass(frozen=True)
class RunState:
    """The present run of each image of a batch.

    Attributes:
        delta: `(B, C, H, W)`, the perturbation.
        average: `(B, C, H, W)`, the running average of gradients.
        direction: `(B, C, H, W)`, about `M^-1 average`.
        shortfall: `(B,)`, the accumulated error of the tangents, which is added to the goal of the next step.
        largest_margin: `(B,)`, the largest absolute margin of the run.
        steps: `(B,)` int64, gradients in the average.
        power: `(B,)`: a new gradient enters the average with the share `steps ** -power`.
        runner_up: `(B,)` int64, the class whose logit is to exceed the label's, or -1 for the largest other logit.
    """

    delta: Tensor
    average: Tensor
    direction: Tensor
    shortfall: Tensor
    largest_margin: Tensor
    steps: Tensor
    power: Tensor
    runner_up: Tensor

    @classmethod
    def at_reference(cls, reference: Tensor, power: float) -> RunState:
        """The state before the first step, at references `(B, C, H, W)`, towards any class."""
        batch, zeros = len(reference), torch.zeros_like(reference)
        steps = torch.zeros(batch, dtype=torch.int64, device=reference.device)
        return cls(
            delta=zeros,
            average=zeros.clone(),
            direction=zeros.clone(),
            shortfall=reference.new_zeros(batch),
            largest_margin=reference.new_zeros(batch),
            steps=steps,
            power=reference.new_full((batch,), power),
            runner_up=steps - 1,
        )

    def select(self, images: Tensor) -> RunState:
        """The states of some images, by their indices `(n,)`: copies."""
        return RunState(**{field.name: getattr(self, field.name)[images] for field in fields(self)})

    def update(self, images: Tensor, states: RunState) -> None:
        """Overwrites the states of some images in place, by their indices `(n,)`."""
        for field in fields(self):
            getattr(self, field.name)[images] = getattr(states, field.name)

    def zero(self, image: int) -> None:
        """Resets an image to its reference, without gradients; its `runner_up` and `power` stay."""
        for name in _ZEROED:
            getattr(self, name)[image] = 0
