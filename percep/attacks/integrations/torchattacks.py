"""percep's attacks for torchattacks: `attack(images, labels) -> images`, with its targeted modes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from percep.attacks.cost import Measure
from percep.attacks.criteria import Loss
from percep.attacks.frank_wolfe import FrankWolfe
from percep.attacks.integrations import kept_modes, unavailable
from percep.attacks.minimal import MinimalPerturbation
from percep.attacks.quantisation import quantise
from percep.attacks.result import AttackResult
from percep.errors import InputError
from percep.validation.class_indices import as_class_indices
from percep.windows import Window

try:
    from torchattacks.attack import Attack
except ImportError as error:
    raise unavailable(error) from error


class _Attack(Attack, ABC):
    """What both attacks share. Settings are attributes, as in torchattacks, and may be changed between calls."""

    _normalization_applied: bool | None

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__(name, model)
        self.supported_mode = ["default", "targeted"]

    @abstractmethod
    def native(self) -> Callable[[Tensor, Tensor, Tensor | None], AttackResult]:
        """percep's attack on the model's logits, with the present settings."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """`forward` between the library's modes and normalisation; model and attack are as before afterwards."""
        applied = self._normalization_applied
        try:
            with kept_modes(self.model):
                images: Tensor = super().__call__(*args, **kwargs)
        finally:
            self._normalization_applied = applied
        return images

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """8-bit images like `images`.

        Args:
            images: `(B, C, H, W)` in [0, 1], multiples of 1/255; normalised ones, at `__call__`, after
                `set_normalization_used`.
            labels: `(B,)` class indices, the targets in the mode "targeted by label".

        Raises:
            InputError: whatever percep's attack refuses.
        """
        if not isinstance(images, Tensor):
            raise InputError(f"images must be a torch.Tensor, got {type(images).__name__}")
        images = images.to(self.device)
        labels = as_class_indices("labels", labels, len(images), images.device)
        if self.normalization_used is not None:
            images = _snapped(images)
        targets = self.get_target_label(images, labels) if self.targeted else None
        return self.native()(images, labels, targets).images


class TorchattacksFrankWolfe(_Attack):
    """`percep.attacks.FrankWolfe` for torchattacks.

    Args:
        model: maps images, normalised ones after `set_normalization_used`, to `(B, K)` logits.
        floor: least SSIM in any window, in (0, 1), or None.
        mean: least mean SSIM, in (0, 1), or None. At least one of floor and mean is needed.
        steps, loss, window, tol: as in `percep.attacks.FrankWolfe`.

    Raises:
        InputError: settings that `percep.attacks.FrankWolfe` refuses.
    """

    def __init__(
        self,
        model: nn.Module,
        floor: float | None = None,
        mean: float | None = 0.999,
        steps: int = 10,
        loss: Loss = "margin",
        window: Window | None = None,
        tol: float = 1e-2,
    ) -> None:
        super().__init__("TorchattacksFrankWolfe", model)
        self.floor = floor
        self.mean = mean
        self.steps = steps
        self.loss: Loss = loss
        self.window = window
        self.tol = tol
        self.native()

    def native(self) -> FrankWolfe:
        return FrankWolfe(self.get_logits, self.floor, self.mean, self.steps, self.loss, self.window, self.tol)


class TorchattacksMinimalPerturbation(_Attack):
    """`percep.attacks.MinimalPerturbation` for torchattacks.

    Args:
        model: maps images, normalised ones after `set_normalization_used`, to `(B, K)` logits.
        measure, gradients, window: as in `percep.attacks.MinimalPerturbation`.

    Raises:
        InputError: settings that `percep.attacks.MinimalPerturbation` refuses.
    """

    def __init__(
        self,
        model: nn.Module,
        measure: Measure = "mean",
        gradients: int = 200,
        window: Window | None = None,
    ) -> None:
        super().__init__("TorchattacksMinimalPerturbation", model)
        self.measure: Measure = measure
        self.gradients = gradients
        self.window = window
        self.native()

    def native(self) -> MinimalPerturbation:
        return MinimalPerturbation(self.get_logits, self.measure, self.gradients, self.window)


def _snapped(images: Tensor) -> Tensor:
    """8-bit images without the rounding errors of a normalisation undone; other images as they are."""
    levels = quantise(images)
    return torch.where((images - levels).abs() * 255 <= 1e-2, levels, images)
