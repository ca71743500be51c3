"""percep's attacks for the Adversarial Robustness Toolbox: `attack.generate(x, y) -> x_adv` in numpy."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from percep.attacks.cost import Measure
from percep.attacks.criteria import Loss
from percep.attacks.frank_wolfe import FrankWolfe
from percep.attacks.integrations import kept_modes, unavailable
from percep.attacks.minimal import MinimalPerturbation
from percep.attacks.result import AttackResult
from percep.errors import InputError
from percep.validation.scalars import require_integer
from percep.windows import Window

try:
    from art.attacks import EvasionAttack
    from art.estimators.classification import PyTorchClassifier
except ImportError as error:
    raise unavailable(error) from error


class _Attack(EvasionAttack):
    """What both attacks share. Settings are attributes, as in ART, and `set_params` changes them."""

    attack_params: ClassVar[list[str]] = [*EvasionAttack.attack_params, "targeted", "batch_size"]
    _estimator_requirements = (PyTorchClassifier,)

    def __init__(self, estimator: PyTorchClassifier, targeted: bool, batch_size: int) -> None:
        super().__init__(estimator=estimator)
        self.targeted = targeted
        self.batch_size = batch_size

    @abstractmethod
    def native(self) -> Callable[[Tensor, Tensor, Tensor | None], AttackResult]:
        """percep's attack on the estimator's logits, with the present settings."""

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        """8-bit images like `x`, float32 in [0, 1]. The model is in eval mode meanwhile, and afterwards as it was.

        Args:
            x: `(N, C, H, W)` in [0, 1], multiples of 1/255.
            y: classes to be left, or to be reached where `targeted`: indices `(N,)` or `(N, 1)`, or one-hot
                `(N, K)`. None for the estimator's own predictions, untargeted only.

        Raises:
            InputError: no y for a targeted attack, further arguments, and whatever percep's attack refuses.
        """
        if kwargs:
            raise InputError(f"percep's attacks take x and y, got {', '.join(kwargs)} as well")
        if y is None and self.targeted:
            raise InputError("a targeted attack needs y, the classes to be reached")
        x = np.asarray(x, dtype=np.float32)
        with kept_modes(self.estimator.model):
            self.estimator.model.eval()
            return self._generate(x, y)

    def _generate(self, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
        if not len(x):
            return x
        if y is None:
            with torch.random.fork_rng(devices=[]):  # the estimator's loader draws a seed
                y = self.estimator.predict(x, batch_size=self.batch_size)
        y = np.asarray(y)
        classes = y.argmax(1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1)
        if (classes != np.trunc(classes)).any():
            raise InputError(f"y must hold class indices or one-hot rows, got {y.dtype} with fractions")
        images = torch.from_numpy(x).to(self.estimator.device)
        labels = torch.from_numpy(classes.astype(np.int64)).to(self.estimator.device)
        if len(labels) != len(images):
            raise InputError(f"y must hold one class for each of the {len(images)} images, got {len(labels)}")
        attack = self.native()
        results = [
            attack(batch, goals, goals if self.targeted else None).images
            for batch, goals in zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
        ]
        generated: np.ndarray = torch.cat(results).cpu().numpy()
        return generated

    def _logits(self, images: Tensor) -> Any:
        for operation in self.estimator.preprocessing_operations:
            if operation.apply_predict:
                images, _ = operation.forward(images)
        return self.estimator.model(images)

    def _check_params(self) -> None:
        super()._check_params()
        clip = self.estimator.clip_values
        if clip is None or np.any(np.asarray(clip[0]) != 0) or np.any(np.asarray(clip[1]) != 1):
            raise InputError(f"the estimator's clip_values must be (0, 1), got {clip}")
        if not self.estimator.channels_first:
            raise InputError("the estimator must take its channels first, (N, C, H, W)")
        if not self.estimator.all_framework_preprocessing:
            raise InputError("the estimator's preprocessing must be in PyTorch, so that it has gradients")
        self.batch_size = require_integer("batch_size", self.batch_size, 1)
        self.native()


class ARTFrankWolfe(_Attack):
    """`percep.attacks.FrankWolfe` for ART.

    Args:
        estimator: a `PyTorchClassifier` that answers logits, with clip_values (0, 1), channels first; its
            standardisation and its preprocessing defences written in PyTorch are attacked with it.
        floor: least SSIM in any window, in (0, 1), or None.
        mean: least mean SSIM, in (0, 1), or None. At least one of floor and mean is needed.
        steps, loss, window, tol: as in `percep.attacks.FrankWolfe`.
        targeted: whether y are the classes to be reached.
        batch_size: how many images are attacked at once.

    Raises:
        InputError: an estimator or settings that are not as above.
    """

    attack_params: ClassVar[list[str]] = [*_Attack.attack_params, "floor", "mean", "steps", "loss", "window", "tol"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        floor: float | None = None,
        mean: float | None = 0.999,
        steps: int = 10,
        loss: Loss = "margin",
        window: Window | None = None,
        tol: float = 1e-2,
        targeted: bool = False,
        batch_size: int = 32,
    ) -> None:
        super().__init__(estimator, targeted, batch_size)
        self.floor = floor
        self.mean = mean
        self.steps = steps
        self.loss: Loss = loss
        self.window = window
        self.tol = tol
        self._check_params()

    def native(self) -> FrankWolfe:
        return FrankWolfe(self._logits, self.floor, self.mean, self.steps, self.loss, self.window, self.tol)


class ARTMinimalPerturbation(_Attack):
    """`percep.attacks.MinimalPerturbation` for ART.

    Args:
        estimator: as for `ARTFrankWolfe`.
        measure, gradients, window: as in `percep.attacks.MinimalPerturbation`.
        targeted: whether y are the classes to be reached.
        batch_size: how many images are attacked at once.

    Raises:
        InputError: an estimator or settings that are not as above.
    """

    attack_params: ClassVar[list[str]] = [*_Attack.attack_params, "measure", "gradients", "window"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        measure: Measure = "mean",
        gradients: int = 200,
        window: Window | None = None,
        targeted: bool = False,
        batch_size: int = 32,
    ) -> None:
        super().__init__(estimator, targeted, batch_size)
        self.measure: Measure = measure
        self.gradients = gradients
        self.window = window
        self._check_params()

    def native(self) -> MinimalPerturbation:
        return MinimalPerturbation(self._logits, self.measure, self.gradients, self.window)
