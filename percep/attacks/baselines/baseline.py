"""The attacks of other libraries under the interface of percep's own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from percep.attacks.baselines import advlib_attacks, foolbox_attacks, torchattacks_attacks
from percep.attacks.baselines.counting import Counted, NotFiniteError
from percep.attacks.baselines.epsilon_search import PROBES
from percep.attacks.baselines.library_attack import LibraryAttack, Problem
from percep.attacks.criteria import achieved
from percep.attacks.network import Network, own_modes, plain
from percep.attacks.quantisation import quantise
from percep.attacks.result import AttackResult, AttackStatus
from percep.attacks.validation import check_images, check_logits
from percep.choices import BASELINES, ROUNDING_BASELINES
from percep.errors import InputError
from percep.validation.class_indices import ClassIndices, as_class_indices
from percep.validation.fields import checked
from percep.validation.scalars import require_integer
from percep.windows import Window

_LIBRARY_ATTACKS: dict[str, Callable[[int, bool], LibraryAttack]] = {
    "fgsm": foolbox_attacks.fgsm,
    "pgd_linf": foolbox_attacks.pgd_linf,
    "pgd_l2": foolbox_attacks.pgd_l2,
    "ddn": foolbox_attacks.ddn,
    "cw": foolbox_attacks.cw,
    "fmn": advlib_attacks.fmn,
    "apgd": torchattacks_attacks.apgd,
    "apgd_l2": torchattacks_attacks.apgd_l2,
    "alma_ssim": advlib_attacks.alma_ssim,
    "alma_l2": advlib_attacks.alma_l2,
    "perc_al": advlib_attacks.perc_al,
}
_MIN_GRADIENTS = 2 * PROBES


@dataclass(frozen=True)
class Baseline:
    """An attack of another library, within a budget of gradients, one image at a time.

    Attacks of fixed epsilon are asked for the smallest epsilon at which they succeed, by ten runs that share the
    budget; the others get it as their steps. Images are attacked on their own, as some libraries stop early on
    sums over a batch, and start from the same random numbers: a result does not depend on batch mates.

    Attributes:
        name: one of `BASELINES`.
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits; every module in it must be in eval mode. Nothing
            of it is changed, and it alone runs under the caller's `torch.autocast`.
        gradients: most gradients per image, at least 20.
        eight_bit: evaluate images as rounded to 256 levels, inside the attack; "cw" and "fmn" cannot. Other numbers of
            levels, which percep's attacks have as `levels`, are not offered: the libraries that round do so to 8 bits.

    Raises:
        InputError: an unknown name, a budget too small, rounding that an attack does not know.
        UnavailableError: the attack's library is not installed.
    """

    name: str
    model: Callable[[Tensor], Any]
    gradients: int = checked(200, partial(require_integer, least=_MIN_GRADIENTS))
    eight_bit: bool = False

    def __post_init__(self) -> None:
        if self.name not in _LIBRARY_ATTACKS:
            raise InputError(f"unknown baseline {self.name!r}: choose {', '.join(BASELINES)}")
        if self.eight_bit and self.name not in ROUNDING_BASELINES:
            raise InputError(f"{self.name} cannot round to 8 bits inside: leave eight_bit False")
        _ = self._library_attack  # a library that is not installed is named now

    @cached_property
    def _library_attack(self) -> LibraryAttack:
        return _LIBRARY_ATTACKS[self.name](self.gradients, self.eight_bit)

    @property
    def origin(self) -> str:
        """Whose attack this is: library, version and the settings used."""
        return self._library_attack.origin

    def __call__(self, images: Tensor, labels: ClassIndices, targets: ClassIndices | None = None) -> AttackResult:
        """Attacks a batch. Random starts follow `torch.manual_seed`: one number is drawn from the global generator.

        Args:
            images: `(B, C, H, W)` float32 in [0, 1]. An image with NaN or infinity gets the status `not_finite`.
            labels: `(B,)` class indices, to be left: a tensor, an array or a list of integers.
            targets: `(B,)` class indices, to be reached; None for an untargeted attack.

        Returns:
            The result. Its images are the library's, clamped to [0, 1], floats unless `eight_bit`; the reference
            where the library found none. `certified` says that they are finite and in the pixel range; `gap` is NaN.

        Raises:
            InputError: images that are not float32 in [0, 1], too small, or without colours for an attack on
                colours; labels or targets outside the model's classes or of a wrong shape; targets for an attack
                that takes none; a module in train mode, or with fewer classes than the attack needs.
        """
        network = Network(self.model, together=False)
        finite = self._check_images(images)
        attack = self._library_attack
        batch, device = len(images), images.device
        labels = as_class_indices("labels", labels, batch, device)
        targets = None if targets is None else as_class_indices("targets", targets, batch, device)
        if targets is not None and not attack.targeted:
            raise InputError(f"{self.name} has no targeted mode in {attack.release}")
        seed = int(torch.randint(2**31, ()))
        with own_modes(gradients=True):
            references = torch.where(finite[:, None, None, None], plain(images), 0.0)
            trials = []
            for image, sound in enumerate(finite.tolist()):
                one = slice(image, image + 1)
                target = None if targets is None else plain(targets[one])
                trial = _Trial(Problem(Counted(network, device), references[one], plain(labels[one]), target))
                if sound:
                    with torch.random.fork_rng(devices=_seeded()):
                        torch.manual_seed(seed)
                        trial.run(attack, labels, targets)
                trials.append(trial)
            return _result(references, plain(finite), trials)

    def _check_images(self, images: Tensor) -> Tensor:
        """Which images are finite, `(B,)` bool; raises InputError for those the library's attack does not take."""
        finite = check_images(images, None)
        Window.gaussian().grid(*images.shape[-2:])
        if images.dtype != torch.float32:
            raise InputError(f"the libraries of baselines compute in float32, got images in {images.dtype}")
        attack = self._library_attack
        if attack.rgb and images.shape[1] != 3:
            raise InputError(f"{self.name} works on colours: images must be (B, 3, H, W), got {tuple(images.shape)}")
        if min(images.shape[-2:]) < attack.min_side:
            raise InputError(
                f"{self.name} needs sides of {attack.min_side} pixels or more, got {tuple(images.shape[-2:])}"
            )
        return finite


def _seeded() -> list[int]:
    """The GPUs whose generators `torch.manual_seed` resets: all of them, wherever the images are."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []


class _Trial:
    """One image: what was found, and what the model says of it before and after (-1 where it is not finite)."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.image = problem.image
        self.status = AttackStatus.NOT_FINITE
        self.before = self.after = -1

    def run(self, attack: LibraryAttack, labels: Tensor, targets: Tensor | None) -> None:
        """Attacks the image; `labels` and `targets` are the whole batch's, to be checked before the first attack."""
        problem = self.problem
        try:
            logits = problem.model(problem.image)
            check_logits(logits, 1, labels, targets)
            if logits.shape[1] < attack.min_classes:
                raise InputError(
                    f"{attack.attack} of {attack.library} needs a model of {attack.min_classes} classes or more, "
                    f"this one has {logits.shape[1]}"
                )
            self.before = self.after = int(logits.argmax(1))
            if bool(achieved(logits, problem.label, problem.target)):
                self.status = AttackStatus.ALREADY_ADVERSARIAL
                return
            found = attack.run(problem)
            self.status = AttackStatus.NOT_FOUND
            if found is None:
                return
            found = quantise(found.detach()) if attack.eight_bit else found.detach().clamp(0, 1)
            logits = problem.model(found)
            if bool(achieved(logits, problem.label, problem.target)):
                self.image, self.status, self.after = found, AttackStatus.ADVERSARIAL, int(logits.argmax(1))
        except NotFiniteError:
            self.status = AttackStatus.NOT_FINITE


def _result(references: Tensor, finite: Tensor, trials: list[_Trial]) -> AttackResult:
    device = references.device

    def integers(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    images = references.clone()
    for image, trial in zip(images, trials, strict=True):
        image.copy_(trial.image[0])
    return AttackResult.measured(
        references,
        images,
        [trial.status for trial in trials],
        finite=finite,
        labels_before=integers([trial.before for trial in trials]),
        labels_after=integers([trial.after for trial in trials]),
        gradient_calls=integers([trial.problem.model.gradient_calls for trial in trials]),
        forward_calls=integers([trial.problem.model.forward_calls for trial in trials]),
    )
