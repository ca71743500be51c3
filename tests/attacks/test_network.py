"""Models as attacks call them: torch's modes, autocast, kinds of answers; and that nothing of them is changed."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager

import foolbox
import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from percep import InputError
from percep.attacks import AttackStatus, FrankWolfe, MinimalPerturbation
from percep.attacks.baselines import BASELINES, Baseline
from percep.attacks.integrations.art import ARTFrankWolfe, ARTMinimalPerturbation
from percep.attacks.integrations.foolbox import FoolboxFrankWolfe, FoolboxMinimalPerturbation
from percep.attacks.integrations.torchattacks import TorchattacksFrankWolfe, TorchattacksMinimalPerturbation
from tests.attacks.test_frank_wolfe import saved

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, SIZE = 4, 32
Attack = Callable[[nn.Module, Tensor, Tensor], object]


class Network(nn.Module):
    """Small, with all that an attack could change: batch norm's statistics, dropout, gradients, modes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.features = nn.Sequential(nn.Conv2d(3, 8, 5, stride=3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 10 * 10, CLASSES))
        self.head[1].bias.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


X = saved(2)
LABELS = Network()(X).argmax(1)

NATIVE: dict[str, Attack] = {
    "FrankWolfe": lambda model, x, y: FrankWolfe(model, mean=0.99, steps=2)(x, y),
    "FrankWolfe, floor": lambda model, x, y: FrankWolfe(model, floor=0.9, steps=2)(x, y),
    "MinimalPerturbation": lambda model, x, y: MinimalPerturbation(model, gradients=4)(x, y),
    "MinimalPerturbation, floor": lambda model, x, y: MinimalPerturbation(model, "floor", gradients=4)(x, y),
}
OTHERS: dict[str, Attack] = {
    name: lambda model, x, y, name=name: Baseline(name, model, gradients=20)(x, y) for name in BASELINES
}


def foolbox_attack(attack: object) -> Attack:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> object:
        return attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=0.01)

    return run


def art_attack(kind: type, **settings) -> Attack:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> object:
        estimator = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (3, SIZE, SIZE), CLASSES, clip_values=(0, 1), device_type="cpu"
        )
        return kind(estimator, **settings).generate(x.numpy())

    return run


INTEGRATIONS: dict[str, Attack] = {
    "foolbox FrankWolfe": foolbox_attack(FoolboxFrankWolfe(steps=2)),
    "foolbox MinimalPerturbation": foolbox_attack(FoolboxMinimalPerturbation(gradients=4)),
    "torchattacks FrankWolfe": lambda model, x, y: TorchattacksFrankWolfe(model, steps=2)(x, y),
    "torchattacks MinimalPerturbation": lambda model, x, y: TorchattacksMinimalPerturbation(model, gradients=4)(x, y),
    "art FrankWolfe": art_attack(ARTFrankWolfe, steps=2),
    "art MinimalPerturbation": art_attack(ARTMinimalPerturbation, gradients=4),
}


def picture(model: nn.Module) -> dict[str, object]:
    """All of a model, and of torch's and others' global state, that could be changed."""
    state: dict[str, object] = {name: value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state[f"{name}.grad"] = None if parameter.grad is None else parameter.grad.clone()
        state[f"{name}.requires_grad"] = parameter.requires_grad
    for name, module in model.named_modules():
        state[f"{name}.training"] = module.training
        state[f"{name}.hooks"] = (
            len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)
        )  # fmt: skip
    state["global hooks"] = len(torch.nn.modules.module._global_forward_pre_hooks)
    state["grad mode"] = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    state["autocast"] = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    state["settings"] = torch.get_num_threads(), torch.get_default_dtype()
    state["random"] = random.getstate(), tuple(np.random.get_state()[1])  # noqa: NPY002  the state that others' code draws from
    return state


def assert_same(before: dict[str, object], after: dict[str, object]) -> None:
    for name, value in before.items():
        other = after[name]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name


@pytest.mark.parametrize("name", [*NATIVE, *OTHERS, *INTEGRATIONS])
def test_nothing_of_a_model_nor_of_torch_is_changed(name):
    attack = (NATIVE | OTHERS | INTEGRATIONS)[name]
    model = Network()
    model.features[0].weight.grad = torch.ones_like(model.features[0].weight)
    torch.manual_seed(1)
    before, generator = picture(model), torch.get_rng_state()
    if name in OTHERS:  # which draw one number, the seed of their random starts
        torch.randint(2**31, ())
        generator = torch.get_rng_state()
        torch.manual_seed(1)
    attack(model, X, LABELS)
    assert_same(before, picture(model))
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("name", [*NATIVE, "ddn", "apgd", "alma_l2", "foolbox FrankWolfe"])
@pytest.mark.parametrize("part", ["all", "batch norm", "dropout"])
def test_a_part_in_train_mode_is_refused_and_left_alone(name, part):
    inner = Network()
    model = nn.Sequential(nn.Identity(), inner).eval()
    {"all": inner, "batch norm": inner.features[1], "dropout": inner.features[3]}[part].train()
    before = picture(model)
    with pytest.raises(InputError, match="train mode"):
        (NATIVE | OTHERS | INTEGRATIONS)[name](model, X, LABELS)
    assert_same(before, picture(model))
    if name in NATIVE:  # hidden from sight in a function
        with pytest.raises(InputError, match="train mode"):
            NATIVE[name](lambda images: 2 * model(images), X, LABELS)
        assert_same(before, picture(model))


@pytest.mark.parametrize("name", [name for name in INTEGRATIONS if "foolbox" not in name])
def test_libraries_that_switch_modes_give_every_module_its_own_back(name):
    """torchattacks and ART put a model in eval mode, and the outermost module's mode back, if any."""
    model = Network().train()
    model.features[1].eval()
    before = picture(model)
    INTEGRATIONS[name](model, X, LABELS)
    assert_same(before, picture(model))


def test_torchattacks_keeps_its_normalisation_after_an_error():
    attack = TorchattacksFrankWolfe(Network(), steps=1)
    attack.set_normalization_used(mean=(0.5,) * 3, std=(0.5,) * 3)
    good = attack(attack.normalize(X), LABELS)
    with pytest.raises(InputError, match="labels"):
        attack(attack.normalize(X), LABELS.float())
    assert torch.equal(attack(attack.normalize(X), LABELS), good)


def test_transforms_in_a_function_have_no_mode():
    network, turn = Network(), nn.Upsample(scale_factor=1)
    assert turn.training
    result = FrankWolfe(lambda images: network(turn(images)), mean=0.99, steps=1)(X, LABELS)
    assert result.labels_before.tolist() == LABELS.tolist()


def test_batch_statistics_are_refused_where_images_would_meet():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(4 * 900, 3)
    ).eval()
    for attack in (FrankWolfe(model, mean=0.99, steps=1), FrankWolfe(lambda x: 1 * model(x), mean=0.99, steps=1)):
        with pytest.raises(InputError, match="one at a time"):
            attack(X, [0, 0])
        assert attack(X[:1], [0]).labels_before.tolist() == model(X[:1]).argmax(1).tolist()
    assert Baseline("fgsm", model, gradients=20)(X, [0, 0]).success.shape == (2,)


MODES: dict[str, Callable[[], AbstractContextManager]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.slow("every attack, percep's and the other libraries', is run")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*NATIVE, *BASELINES])
def test_every_mode_gives_the_same_answer(mode, name):
    attack, model = (NATIVE | OTHERS)[name], Network()
    torch.manual_seed(2)
    expected = attack(model, X, LABELS)
    with MODES[mode]():
        torch.manual_seed(2)
        result = attack(model, X.clone(), LABELS.clone())  # inference tensors themselves
    assert result.status == expected.status and AttackStatus.NO_GRADIENT not in result.status
    assert torch.equal(result.images, expected.images)
    assert result.gradient_calls.tolist() == expected.gradient_calls.tolist()
    result.images.requires_grad_()  # no inference tensor


@pytest.mark.parametrize("name", ["foolbox MinimalPerturbation", "torchattacks FrankWolfe", "art FrankWolfe"])
def test_integrations_under_inference_mode(name):
    attack, model = INTEGRATIONS[name], Network()
    expected = attack(model, X, LABELS)
    with torch.inference_mode():
        found = attack(model, X, LABELS)
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_weights_made_under_inference_mode_are_named():
    with torch.inference_mode():
        model = Network()
    for attack in NATIVE.values():
        with pytest.raises(InputError, match="inference_mode"):
            attack(model, X, LABELS)


@pytest.mark.parametrize("name", [*NATIVE, "ddn", "fmn"])
def test_under_autocast_only_the_model_computes_in_half_precision(name):
    seen = []

    class Watched(Network):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            seen.append((images.dtype, logits.dtype))
            return logits

    model = Watched()

    class Rounded(Network):
        """The same answers without a surrounding autocast."""

        def forward(self, images: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
                logits = super().forward(images)
            return logits.float()

    torch.manual_seed(3)
    expected = (NATIVE | OTHERS)[name](Rounded(), X, LABELS)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = (NATIVE | OTHERS)[name](model, X, LABELS)
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    assert result.images.dtype == torch.float32 and result.status == expected.status
    assert torch.equal(result.images, expected.images)


class Answering(nn.Module):
    def __init__(self, form: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.network, self.form = Network(), form
        self.eval()

    def forward(self, images: Tensor) -> object:
        return self.form(self.network(images), images)


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


FORMS = {
    "tuple": lambda logits, images: (logits, images),
    "dict": lambda logits, images: {"logits": logits, "other": logits},
    "object": lambda logits, images: Output(logits),
}


@pytest.mark.slow("every attack, percep's and the other libraries', is run")
@pytest.mark.parametrize("name", [*NATIVE, *BASELINES, "torchattacks FrankWolfe"])
def test_logits_in_a_container_are_taken(name):
    attack = (NATIVE | OTHERS | INTEGRATIONS)[name]

    def answer(model: nn.Module) -> Tensor:
        torch.manual_seed(4)
        found = attack(model, X, LABELS)
        return found if isinstance(found, Tensor) else found.images

    expected = answer(Network())
    for form in FORMS.values():
        assert torch.equal(answer(Answering(form)), expected)


@pytest.mark.parametrize("name", [*NATIVE, "ddn", "foolbox FrankWolfe", "torchattacks FrankWolfe"])
def test_answers_without_logits_are_one_error(name):
    for form in (lambda logits, images: (logits, logits), lambda logits, images: logits[:, 0]):
        model = Answering(form)
        with pytest.raises(InputError, match=r"the (model|network of a foolbox.PyTorchModel) must return"):
            (NATIVE | OTHERS | INTEGRATIONS)[name](model, X, LABELS)


@pytest.mark.parametrize("name", [*NATIVE, "fgsm", "alma_l2"])
def test_an_empty_batch(name):
    result = (NATIVE | OTHERS)[name](Network(), X[:0], [])
    assert result.images.shape == X[:0].shape and result.status == () and "0 images: none" in repr(result)
    assert len(result.to_pandas()) == 0


def test_empty_batches_in_the_integrations():
    model, nothing = Network(), torch.zeros(0, dtype=torch.int64)
    assert TorchattacksFrankWolfe(model)(X[:0], nothing).shape == X[:0].shape
    assert INTEGRATIONS["art FrankWolfe"](model, X[:0], nothing).shape == X[:0].shape
