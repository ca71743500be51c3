"""percep's attacks inside foolbox, torchattacks and ART: the native images, and each library's own conventions."""

import subprocess
import sys

import eagerpy as ep
import foolbox
import numpy as np
import pytest
import torch
from art.defences.preprocessor import SpatialSmoothing, SpatialSmoothingPyTorch
from art.estimators.classification import PyTorchClassifier
from art.exceptions import EstimatorError
from torch import Tensor, nn

from percep import InputError, Window, certify
from percep.attacks import AttackResult, FrankWolfe, quantise
from percep.attacks.integrations.art import ARTFrankWolfe, ARTMinimalPerturbation
from percep.attacks.integrations.foolbox import FoolboxFrankWolfe, FoolboxMinimalPerturbation, SSIMDistance
from percep.attacks.integrations.torchattacks import TorchattacksFrankWolfe, TorchattacksMinimalPerturbation
from percep.attacks.minimal import MinimalPerturbation
from tests.attacks.test_frank_wolfe import Linear, saved

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier(Linear):
    """The linear model with a parameter, by which the libraries find the device."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x, CLASSES)
        self.weight = nn.Parameter(self.weight)


class Standardised(Classifier):
    """The same answers to images from which MEAN was subtracted and which were divided by STD."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * torch.tensor(STD).view(-1, 1, 1) + torch.tensor(MEAN).view(-1, 1, 1))


X = saved(3)
MODEL = Classifier(X)
LABELS = MODEL(X).argmax(1)
TARGETS = (LABELS + 1) % CLASSES


def same(images: Tensor, native: AttackResult) -> None:
    """The native images, of which some are adversarial: no vacuous comparison."""
    torch.testing.assert_close(images, native.images, rtol=0, atol=0)
    assert bool(native.success.any())
    assert not torch.equal(images, X)


@pytest.mark.multiprocess
def test_nothing_is_imported_unasked_and_a_missing_library_is_named():
    script = """
import importlib, sys
import percep
libraries = ("foolbox", "torchattacks", "art")
print(sorted(set(libraries) & set(sys.modules)))
for library in libraries:
    sys.modules[library] = None
    try:
        importlib.import_module(f"percep.attacks.integrations.{library}")
    except percep.errors.UnavailableError as error:
        print(library in str(error), "pip install 'percep[baselines]'" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", *["True True"] * 3]


def wrapped(model: nn.Module = MODEL, bounds: tuple[float, float] = (0, 1)) -> foolbox.PyTorchModel:
    return foolbox.PyTorchModel(model, bounds=bounds, device="cpu")


@pytest.mark.slow("whole attacks, by percep and by another library")
@pytest.mark.parametrize("measure", ["mean", "floor"])
def test_foolbox_epsilons_are_budgets(measure):
    epsilons = [0.0, 1e-4, 1e-2]
    attack = FoolboxFrankWolfe(measure=measure, steps=5)
    raw, clipped, success = attack(wrapped(), X, foolbox.Misclassification(LABELS), epsilons=epsilons)
    assert torch.equal(raw[0], X) and torch.equal(clipped[0], X) and success[0].tolist() == [False] * 3
    for epsilon, images, cut, flags in zip(epsilons[1:], raw[1:], clipped[1:], success[1:], strict=True):
        native = FrankWolfe(MODEL, steps=5, **{measure: 1 - epsilon})(X, LABELS)
        same(images, native)
        torch.testing.assert_close(cut, images, rtol=0, atol=0)
        assert flags.tolist() == native.success.tolist()
        assert certify(X, images, **{measure: 1 - epsilon}).within.tolist() == [True] * 3
    none, some, most = success.sum(1).tolist()
    assert none == 0 and some <= most and most >= 2


def test_foolbox_passes_settings_on():
    settings = {"steps": 2, "loss": "cross_entropy", "window": Window.uniform(8, stride=4), "tol": 0.1}
    images, _, _ = FoolboxFrankWolfe(**settings)(wrapped(), X, LABELS, epsilons=0.01)
    same(images, FrankWolfe(MODEL, mean=0.99, **settings)(X, LABELS))


def test_foolbox_targets_and_eagerpy():
    x, targets = ep.astensors(X, TARGETS)
    criterion = foolbox.TargetedMisclassification(targets)
    images, clipped, success = FoolboxFrankWolfe()(wrapped(), x, criterion, epsilons=0.05)
    assert isinstance(images, ep.PyTorchTensor) and isinstance(clipped, ep.PyTorchTensor)
    native = FrankWolfe(MODEL, mean=0.95)(X, LABELS, TARGETS)
    same(images.raw, native)
    assert success.raw.tolist() == native.success.tolist()
    assert (MODEL(images.raw).argmax(1) == TARGETS).tolist() == native.success.tolist()


@pytest.mark.slow("whole attacks, by percep and by another library")
@pytest.mark.parametrize("measure", ["mean", "floor"])
def test_foolbox_minimal_perturbation(measure):
    native = MinimalPerturbation(MODEL, measure, gradients=20)(X, LABELS)
    found = 1 - float((native.mean_ssim if measure == "mean" else native.min_ssim)[0])
    attack = FoolboxMinimalPerturbation(measure=measure, gradients=20)
    epsilons = [None, 1.1 * found, 0.5 * found, 0.0]
    raw, clipped, success = attack(wrapped(), X, LABELS, epsilons=epsilons)
    for images in raw:
        same(images, native)
    assert torch.equal(clipped[0], raw[0]) and success[0].tolist() == native.success.tolist()
    assert torch.equal(clipped[1][0], raw[1][0]) and bool(success[1, 0])
    assert certify(X, clipped[2], **{measure: 1 - epsilons[2]}).within.tolist() == [True] * 3
    assert torch.equal(clipped[2], quantise(clipped[2]))
    assert torch.equal(clipped[3], X) and not bool(success[3].any())


def test_foolbox_minimal_perturbation_targets():
    criterion = foolbox.TargetedMisclassification(TARGETS)
    images, _, success = FoolboxMinimalPerturbation(gradients=20)(wrapped(), X, criterion, epsilons=None)
    native = MinimalPerturbation(MODEL, gradients=20)(X, LABELS, TARGETS)
    same(images, native)
    assert success.tolist() == native.success.tolist()


@pytest.mark.parametrize("measure", ["mean", "floor"])
def test_ssim_distance_measures_and_clips(measure):
    distance = SSIMDistance(measure)
    y = (X + 0.2 * torch.randn(X.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    y[1] = X[1]
    report = certify(X, y)
    expected = 1 - (report.mean_ssim if measure == "mean" else report.min_ssim)
    assert distance(X, y).tolist() == expected.tolist() and expected[0] > 0.1
    clipped = distance.clip_perturbation(X, y, 0.05)
    assert (distance(X, clipped) <= 0.05).all()
    assert distance(X, clipped)[0] > 0.01, "most of the perturbation was thrown away"
    assert torch.equal(clipped[1], X[1])
    assert torch.equal(distance.clip_perturbation(X, clipped, 0.05), clipped)
    # Dark references between two levels, which no 8-bit image is close to.
    dark = torch.full_like(X, 0.5 / 255)
    assert torch.equal(distance.clip_perturbation(dark, torch.ones_like(X), 1e-6), dark)


def test_ssim_distance_serves_foolbox_attacks():
    attack = foolbox.attacks.LinearSearchContrastReductionAttack(distance=SSIMDistance())
    criterion = foolbox.Misclassification(LABELS)
    epsilons = [None, 1e-3]
    raw, clipped, _ = attack(wrapped(), X, criterion, epsilons=epsilons)
    assert SSIMDistance()(X, raw[1])[0] > 1e-3
    assert (SSIMDistance()(X, clipped[1]) <= 1e-3).all()


def test_foolbox_bounds_are_refused_or_transformed():
    class Signed(Classifier):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward((images + 1) / 2)

    fmodel = wrapped(Signed(X), (-1, 1))
    for attack in (FoolboxFrankWolfe(), FoolboxMinimalPerturbation()):
        with pytest.raises(InputError, match=r"transform_bounds\(\(0, 1\)\)"):
            attack(fmodel, 2 * X - 1, LABELS, epsilons=0.01)
    _, _, success = FoolboxFrankWolfe()(fmodel.transform_bounds((0, 1)), X, LABELS, epsilons=0.01)
    assert success.tolist() == [True] * 3


def test_foolbox_refusals():
    attack, fmodel = FoolboxFrankWolfe(), wrapped()
    misclassified = foolbox.Misclassification(LABELS)
    both = misclassified & foolbox.TargetedMisclassification(TARGETS)
    with pytest.raises(InputError, match="criterion must be Misclassification or TargetedMisclassification"):
        attack(fmodel, X, both, epsilons=0.01)
    with pytest.raises(InputError, match="multiples of 1/255"):
        attack(fmodel, 0.999 * X, misclassified, epsilons=0.01)
    with pytest.raises(InputError, match=r"mean must lie in \(0, 1\)"):
        attack(fmodel, X, misclassified, epsilons=[0.01, 1.0])
    with pytest.raises(InputError, match="measure must be"):
        FoolboxFrankWolfe(measure="median")(fmodel, X, misclassified, epsilons=0.01)
    with pytest.raises(InputError, match="torch tensors"):
        SSIMDistance()(X.numpy(), X.numpy())
    with pytest.raises(TypeError, match="mask"):
        attack(fmodel, X, misclassified, epsilons=0.01, mask=None)


LEVELS = [{}, {"floor": 0.95}, {"floor": 0.95, "mean": None}]


@pytest.mark.slow("whole attacks, by percep and by another library")
@pytest.mark.parametrize("levels", LEVELS)
def test_torchattacks_images_are_the_native_ones(levels):
    images = TorchattacksFrankWolfe(MODEL, **levels)(X, LABELS)
    levels = {"mean": 0.999, **levels}
    same(images, FrankWolfe(MODEL, **levels)(X, LABELS))
    assert certify(X, images, **levels).within.tolist() == [True] * 3


@pytest.mark.slow("whole attacks, by percep and by another library")
def test_torchattacks_minimal_perturbation():
    attack = TorchattacksMinimalPerturbation(MODEL, "floor", gradients=20)
    same(attack(X, LABELS), MinimalPerturbation(MODEL, "floor", gradients=20)(X, LABELS))
    attack.measure = "mean"
    attack.set_mode_targeted_by_label(quiet=True)
    same(attack(X, TARGETS), MinimalPerturbation(MODEL, "mean", gradients=20)(X, LABELS, TARGETS))


def test_torchattacks_modes():
    attack = TorchattacksFrankWolfe(MODEL, mean=0.95)

    def native(targets: Tensor | None) -> AttackResult:
        return FrankWolfe(MODEL, mean=0.95)(X, LABELS, targets)

    attack.set_mode_targeted_by_label(quiet=True)
    same(attack(X, TARGETS), native(TARGETS))
    attack.set_mode_targeted_by_function(lambda inputs, labels: (labels + 2) % CLASSES, quiet=True)
    same(attack(X, LABELS), native((LABELS + 2) % CLASSES))
    attack.set_mode_targeted_least_likely(quiet=True)
    same(attack(X, LABELS), native(MODEL(X).argmin(1)))
    attack.set_mode_targeted_random(quiet=True)
    torch.manual_seed(3)
    drawn = attack.get_random_target_label(X, LABELS)
    torch.manual_seed(3)
    same(attack(X, LABELS), native(drawn))
    attack.set_mode_default()
    same(attack(X, LABELS), native(None))


def test_torchattacks_normalisation_is_undone_and_applied_again():
    model = Standardised(X)
    attack = TorchattacksFrankWolfe(model)
    attack.set_normalization_used(mean=MEAN, std=STD)
    # Black and white, which the rounding of a normalisation takes out of [0, 1].
    x = X.clone()
    x[:, :, :4], x[:, :, 4:8] = 0, 1
    normalised = attack.normalize(x)
    assert not torch.equal(attack.inverse_normalize(normalised), x)
    labels = model(normalised).argmax(1)
    images = attack.inverse_normalize(attack(normalised, labels))
    torch.testing.assert_close(images, quantise(images), rtol=0, atol=1e-6)
    assert certify(x, quantise(images), mean=0.999).within.tolist() == [True] * 3
    native = FrankWolfe(lambda pixels: model(attack.normalize(pixels)), mean=0.999)(x, labels)
    torch.testing.assert_close(quantise(images), native.images)
    assert bool(native.success.any())
    with pytest.raises(InputError, match="multiples of 1/255"):
        attack(attack.normalize(0.999 * x), labels)


def test_torchattacks_refusals_and_attributes():
    with pytest.raises(InputError, match="floor, a mean or both"):
        TorchattacksFrankWolfe(MODEL, mean=None)
    with pytest.raises(InputError, match="measure"):
        TorchattacksMinimalPerturbation(MODEL, "median")
    attack = TorchattacksFrankWolfe(MODEL)
    assert "mean=0.999" in repr(attack) and "steps=10" in repr(attack)
    attack.mean = 0.99
    same(attack(X, LABELS), FrankWolfe(MODEL, mean=0.99)(X, LABELS))
    with pytest.raises(InputError, match="multiples of 1/255"):
        attack(0.999 * X, LABELS)
    with pytest.raises(InputError, match="labels must be class indices"):
        attack(X, LABELS + CLASSES)


def estimator(model: nn.Module = MODEL, **settings) -> PyTorchClassifier:
    settings = {"clip_values": (0, 1), "device_type": "cpu", **settings}
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), tuple(X.shape[1:]), CLASSES, **settings)


@pytest.mark.slow("whole attacks, by percep and by another library")
@pytest.mark.parametrize("levels", LEVELS)
def test_art_images_are_the_native_ones(levels):
    images = ARTFrankWolfe(estimator(), **levels, batch_size=2).generate(X.numpy(), LABELS.numpy())
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    levels = {"mean": 0.999, **levels}
    # In the same batches: how a product is rounded depends, on some CPUs, on how many rows it has.
    native = [FrankWolfe(MODEL, **levels)(X[part], LABELS[part]) for part in (slice(0, 2), slice(2, 3))]
    torch.testing.assert_close(torch.from_numpy(images), torch.cat([each.images for each in native]), rtol=0, atol=0)
    assert any(bool(each.success.any()) for each in native)
    assert not np.array_equal(images, X.numpy())
    assert certify(X, torch.from_numpy(images), **levels).within.tolist() == [True] * 3


def test_art_forms_of_x_and_y():
    attack = ARTFrankWolfe(estimator(), mean=0.99)
    assert attack.targeted is False
    native = FrankWolfe(MODEL, mean=0.99)(X, LABELS)
    one_hot = np.eye(CLASSES, dtype=np.float32)[LABELS]
    for y in (None, LABELS.numpy(), LABELS.numpy()[:, None], one_hot, LABELS.tolist()):
        same(torch.from_numpy(attack.generate(X.numpy(), y)), native)
    doubles = attack.generate(X.double().numpy(), y=one_hot)
    assert doubles.dtype == np.float32
    same(torch.from_numpy(doubles), native)


def test_art_targets():
    attack = ARTFrankWolfe(estimator(), mean=0.95, targeted=True)
    native = FrankWolfe(MODEL, mean=0.95)(X, LABELS, TARGETS)
    same(torch.from_numpy(attack.generate(X.numpy(), TARGETS.numpy())), native)
    with pytest.raises(InputError, match="targeted attack needs y"):
        attack.generate(X.numpy())
    attack.set_params(targeted=False)
    same(torch.from_numpy(attack.generate(X.numpy())), FrankWolfe(MODEL, mean=0.95)(X, LABELS))


@pytest.mark.slow("whole attacks, by percep and by another library")
def test_art_minimal_perturbation():
    attack = ARTMinimalPerturbation(estimator(), "floor", gradients=20, batch_size=2)
    images = torch.from_numpy(attack.generate(X.numpy(), LABELS.numpy()))
    same(images, MinimalPerturbation(MODEL, "floor", gradients=20)(X, LABELS))
    attack.set_params(measure="mean", targeted=True)
    images = torch.from_numpy(attack.generate(X.numpy(), TARGETS.numpy()))
    same(images, MinimalPerturbation(MODEL, "mean", gradients=20)(X, LABELS, TARGETS))


def test_art_preprocessing_is_attacked_too():
    standardised = Standardised(X)
    defence = SpatialSmoothingPyTorch(window_size=3, channels_first=True, device_type="cpu")
    for preprocessing, defences in (((MEAN, STD), None), ((MEAN, STD), defence)):
        art = estimator(standardised, preprocessing=preprocessing, preprocessing_defences=defences)
        before = art.predict(X.numpy()).argmax(1)
        images = ARTFrankWolfe(art, mean=0.95).generate(X.numpy())
        after = art.predict(images).argmax(1)
        assert (after != before).all()
        assert certify(X, torch.from_numpy(images), mean=0.95).within.tolist() == [True] * 3


def test_art_and_torchattacks_leave_train_mode():
    class Moody(Classifier):
        def forward(self, images: Tensor) -> Tensor:
            return -super().forward(images) if self.training else super().forward(images)

    native = FrankWolfe(MODEL, mean=0.99)(X, LABELS)
    model = Moody(X).train()
    same(TorchattacksFrankWolfe(model, mean=0.99)(X, LABELS), native)
    assert model.training
    images = ARTFrankWolfe(estimator(model), mean=0.99).generate(X.numpy(), LABELS.numpy())
    same(torch.from_numpy(images), native)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_values": (0, 255)}, "clip_values"),
        ({"clip_values": None}, "clip_values"),
        ({"channels_first": False}, "channels first"),
        ({"preprocessing_defences": SpatialSmoothing(channels_first=True)}, "preprocessing must be in PyTorch"),
    ],
)
def test_art_estimators_that_are_refused(settings, message):
    for attack in (ARTFrankWolfe, ARTMinimalPerturbation):
        with pytest.raises(InputError, match=message):
            attack(estimator(**settings))


def test_art_refusals():
    attack, x = ARTFrankWolfe(estimator()), X.numpy()
    with pytest.raises(EstimatorError):
        ARTFrankWolfe(MODEL)
    with pytest.raises(InputError, match="floor, a mean or both"):
        ARTFrankWolfe(estimator(), mean=None)
    with pytest.raises(InputError, match="batch_size"):
        ARTFrankWolfe(estimator(), batch_size=0)
    with pytest.raises(InputError, match="steps"):
        ARTFrankWolfe(estimator()).set_params(steps=0)
    with pytest.raises(InputError, match="multiples of 1/255"):
        attack.generate(0.999 * x)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        attack.generate((255 * x).round())
    with pytest.raises(InputError, match="one class for each of the 3 images, got 2"):
        attack.generate(x, LABELS.numpy()[:2])
    with pytest.raises(InputError, match="labels must be class indices"):
        attack.generate(x, LABELS.numpy() + CLASSES)
    with pytest.raises(InputError, match="mask"):
        attack.generate(x, mask=np.ones_like(x))
