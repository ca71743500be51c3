"""What attacks take as images, labels, targets and levels, and how they refuse anything else."""

import numpy as np
import pytest
import torch

from percep import InputError
from percep.attacks import FrankWolfe, MinimalPerturbation
from percep.attacks.baselines import Baseline
from tests.attacks.test_network import CLASSES, LABELS, Network, X

pytestmark = pytest.mark.usefixtures("one_thread")

LABEL_FORMS = {
    "int32": lambda y: y.int(),
    "int16": lambda y: y.short(),
    "uint8": lambda y: y.to(torch.uint8),
    "array": lambda y: y.numpy(),
    "int8 array": lambda y: y.numpy().astype(np.int8),
    "list": lambda y: y.tolist(),
    "tuple": lambda y: tuple(y.tolist()),
}


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_labels_and_targets_of_every_kind_of_integer(form):
    model, take = Network(), LABEL_FORMS[form]
    targets = (LABELS + 1) % CLASSES
    for attack in (FrankWolfe(model, mean=0.9, steps=2), MinimalPerturbation(model, gradients=4)):
        expected, found = attack(X, LABELS, targets), attack(X, take(LABELS), take(targets))
        assert torch.equal(found.images, expected.images) and found.status == expected.status
    assert Baseline("ddn", model, gradients=20)(X, take(LABELS)).labels_before.tolist() == LABELS.tolist()


def test_one_integer_labels_one_image():
    model, label = Network(), int(LABELS[0])
    for single in (label, np.int64(label), [label]):
        assert FrankWolfe(model, mean=0.9, steps=1)(X[:1], single).labels_before.tolist() == [label]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 1.0]), r"labels must be integers of shape \(2,\).*float32.*long"),
        (np.array([0.5, 1.0]), r"labels must be integers.*float64"),
        (torch.tensor([True, False]), r"labels must be integers.*bool"),
        ([True, False], r"labels must be integers.*bool"),
        (torch.eye(CLASSES, dtype=torch.int64)[:2], r"labels must be integers.*argmax\(1\)"),
        (torch.tensor([0]), r"labels must be integers of shape \(2,\).*\(1,\)"),
        (torch.tensor([[0], [1]]), r"labels must be integers of shape \(2,\)"),
        (0, r"labels must be integers of shape \(2,\)"),
        (["cat", "dog"], "labels must be integers"),
        (None, "labels must be integers"),
        ([[0], [0, 1]], "labels must be integers"),
    ],
)
def test_labels_of_another_kind_are_refused_in_one_line(labels, message):
    for attack in (FrankWolfe(Network(), mean=0.9), MinimalPerturbation(Network()), Baseline("fgsm", Network())):
        with pytest.raises(InputError, match=message) as error:
            attack(X, labels)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (X.numpy(), "torch.Tensor"),
        (X.permute(0, 2, 3, 1).contiguous(), r"permute\(0, 3, 1, 2\)"),
        ((X * 255).to(torch.uint8), "255"),
        (X * 255, "255"),
        (X * 4095, "4095"),
        (X[0], r"\(B, C, H, W\)"),
        (X.half(), "float32 or float64"),
        (X.bfloat16(), "float32 or float64"),
    ],
)
def test_images_of_another_kind_are_refused_with_the_way_out(images, message):
    for attack in (FrankWolfe(Network(), mean=0.9), MinimalPerturbation(Network()), Baseline("fgsm", Network())):
        with pytest.raises(InputError, match=message) as error:
            attack(images, LABELS)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("levels", [1, 0, -3, 2.5, True, "256"])
def test_numbers_of_levels_that_are_none(levels):
    for kind in (FrankWolfe, MinimalPerturbation):
        with pytest.raises(InputError, match="levels must be an integer"):
            kind(Network(), **({"mean": 0.9} if kind is FrankWolfe else {}), levels=levels)


def test_levels_that_a_dtype_does_not_tell_apart_and_images_of_other_levels():
    with pytest.raises(InputError, match="does not tell 16777216 levels apart"):
        MinimalPerturbation(Network(), levels=2**24)(X, LABELS)
    for attack in (FrankWolfe(Network(), mean=0.9, levels=16), MinimalPerturbation(Network(), levels=16)):
        with pytest.raises(InputError, match=r"multiples of 1/15 \(levels=16\)"):
            attack(X, LABELS)


@pytest.mark.parametrize("levels", [2, 16, 256, 65536])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_is_recognised_however_it_was_computed(levels, dtype):
    whole = torch.arange(levels, dtype=dtype)[-256:] if levels > 256 else torch.arange(levels, dtype=dtype)
    row = whole.repeat(-(-256 // len(whole)))[:256].reshape(1, 1, 16, 16)
    for images in (row / (levels - 1), row * (1 / (levels - 1))):
        result = MinimalPerturbation(lambda b: b.flatten(1)[:, :3], gradients=1, levels=levels)(
            images.clamp(0, 1), [int(images.flatten(1)[:, :3].argmax(1))]
        )
        assert result.certified.tolist() == [True]
