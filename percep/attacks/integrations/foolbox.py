"""percep's attacks for foolbox 3: `attack(fmodel, images, criterion, epsilons=...)`, epsilon being 1 - SSIM."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from percep.attacks.cost import Measure, check_measure
from percep.attacks.criteria import Loss
from percep.attacks.frank_wolfe import FrankWolfe
from percep.attacks.integrations import unavailable
from percep.attacks.minimal import MinimalPerturbation
from percep.attacks.quantisation import quantise_into_ball
from percep.attacks.result import AttackResult
from percep.ball import SSIMBall
from percep.certificate import certify
from percep.errors import InputError
from percep.windows import Window

try:
    import eagerpy as ep
    from foolbox import Misclassification, Model, TargetedMisclassification
    from foolbox.attacks.base import FixedEpsilonAttack, MinimizationAttack, get_criterion, raise_if_kwargs
    from foolbox.distances import Distance
except ImportError as error:
    raise unavailable(error) from error

T = TypeVar("T")


@dataclass(frozen=True)
class SSIMDistance(Distance):
    """1 - mean SSIM, or 1 - least SSIM, as `percep.certify` measures them, of images in [0, 1].

    Attributes:
        measure: "mean", or "floor" for the least SSIM over windows and channels.
        window: the SSIM window, `Window.gaussian()` by default.
    """

    measure: Measure = "mean"
    window: Window | None = None

    def __post_init__(self) -> None:
        check_measure(self.measure)

    def __call__(self, reference: T, perturbed: T) -> T:
        """The distances, `(B,)` float64; NaN for an image that is not finite."""
        (x, y), restore = ep.astensors_(reference, perturbed)
        report = certify(_torch(x), _torch(y), window=self.window)
        return restore(ep.astensor(1 - (report.mean_ssim if self.measure == "mean" else report.min_ssim)))

    def clip_perturbation(self, references: T, perturbed: T, epsilon: float) -> T:
        """`perturbed` where its distance is at most `epsilon`.

        The others are brought closer, to 8-bit images within `epsilon`, or to the reference where none was found.

        Raises:
            InputError: an epsilon that is neither 0 nor in (0, 1).
        """
        if epsilon == 0:
            return references
        (reference, images), restore = ep.astensors_(references, perturbed)
        x, y = _torch(reference), _torch(images)
        floor, mean = self.levels(epsilon)
        ball = SSIMBall(x, floor, mean, self.window)
        clipped = x
        for candidate in (quantise_into_ball(ball, y - x), y):
            within = certify(x, candidate, floor, mean, self.window).within
            clipped = torch.where(within[:, None, None, None], candidate, clipped)
        return restore(ep.astensor(clipped))

    def levels(self, epsilon: float) -> tuple[float | None, float | None]:
        """The floor and the mean, one of them None, that `epsilon` stands for."""
        return (None, 1 - epsilon) if self.measure == "mean" else (1 - epsilon, None)


@dataclass(frozen=True)
class FoolboxFrankWolfe(FixedEpsilonAttack):
    """`percep.attacks.FrankWolfe` for foolbox: 8-bit images of SSIM at least 1 - epsilon.

    Each epsilon is 0, for the images themselves, or in (0, 1). The model is a `foolbox.PyTorchModel` with bounds
    (0, 1), the images multiples of 1/255, the criterion `Misclassification` or `TargetedMisclassification`.

    Attributes:
        measure: what epsilon bounds, 1 - mean SSIM ("mean") or 1 - SSIM in every window ("floor").
        steps, loss, window, tol: as in `percep.attacks.FrankWolfe`.
    """

    measure: Measure = "mean"
    steps: int = 10
    loss: Loss = "margin"
    window: Window | None = None
    tol: float = 1e-2

    @property
    def distance(self) -> SSIMDistance:
        return SSIMDistance(self.measure, self.window)

    def run(self, model: Model, inputs: T, criterion: Any, *, epsilon: float, **kwargs: Any) -> T:
        """Perturbed images, like `inputs`.

        Raises:
            InputError: bounds other than (0, 1), tensors other than torch's, another criterion, an epsilon outside
                [0, 1), and whatever `percep.attacks.FrankWolfe` refuses.
        """
        raise_if_kwargs(kwargs)
        if epsilon == 0:
            return inputs
        floor, mean = self.distance.levels(epsilon)
        attack = FrankWolfe(_answers(model), floor, mean, self.steps, self.loss, self.window, self.tol)
        return _attacked(attack, model, inputs, criterion)


@dataclass(frozen=True)
class FoolboxMinimalPerturbation(MinimizationAttack):
    """`percep.attacks.MinimalPerturbation` for foolbox: 8-bit images of SSIM as large as possible.

    `epsilons=None` asks for the images found; the model, the images and the criterion are as for
    `FoolboxFrankWolfe`.

    Attributes:
        measure: the SSIM to keep large: its mean, or its least value ("floor").
        gradients, window: as in `percep.attacks.MinimalPerturbation`.
    """

    measure: Measure = "mean"
    gradients: int = 200
    window: Window | None = None

    @property
    def distance(self) -> SSIMDistance:
        return SSIMDistance(self.measure, self.window)

    def run(self, model: Model, inputs: T, criterion: Any, *, early_stop: float | None = None, **kwargs: Any) -> T:
        """Perturbed images, like `inputs`; `early_stop` is not used.

        Raises:
            InputError: as `FoolboxFrankWolfe.run`, and whatever `percep.attacks.MinimalPerturbation` refuses.
        """
        raise_if_kwargs(kwargs)
        attack = MinimalPerturbation(_answers(model), self.measure, self.gradients, self.window)
        return _attacked(attack, model, inputs, criterion)


def _attacked(
    attack: Callable[[Tensor, Tensor, Tensor | None], AttackResult], model: Model, inputs: T, criterion: Any
) -> T:
    if model.bounds != (0, 1):
        raise InputError(
            f"the model's bounds must be (0, 1), got {tuple(model.bounds)}: "
            "use model.transform_bounds((0, 1)) and images in [0, 1]"
        )
    images, restore = ep.astensor_(inputs)
    criterion = get_criterion(criterion)
    if isinstance(criterion, Misclassification):
        labels, targets = _torch(criterion.labels), None
    elif isinstance(criterion, TargetedMisclassification):
        # Labels play no part in a targeted attack, and foolbox does not know them.
        labels = targets = _torch(criterion.target_classes)
    else:
        raise InputError(f"the criterion must be Misclassification or TargetedMisclassification, got {criterion!r}")
    return restore(ep.astensor(attack(_torch(images), labels, targets).images))


def _answers(model: Model) -> Callable[[Tensor], Tensor]:
    """The model as the attacks call it; foolbox wraps what a network answers, and takes tensors only."""

    def answers(images: Tensor) -> Tensor:
        try:
            logits: Tensor = model(images)
        except ValueError as error:
            if not str(error).startswith("Unknown type"):
                raise
            raise InputError(
                f"the network of a foolbox.PyTorchModel must return a tensor of logits, got {str(error)[14:]}: "
                "wrap it in a module whose forward gives model(x).logits"
            ) from error
        return logits

    return answers


def _torch(tensor: ep.Tensor) -> Tensor:
    if not isinstance(tensor, ep.PyTorchTensor):
        raise InputError(f"percep attacks torch tensors and a foolbox.PyTorchModel, got a {type(tensor).__name__}")
    raw: Tensor = tensor.raw
    return raw
