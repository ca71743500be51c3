"""Whole numbers and levels that public functions are set to: of every type that holds one, and of no other."""

import math
from collections.abc import Callable

import foolbox
import numpy as np
import pytest
import torch
from torch import nn

from percep import Program, SSIMBall, SSIMBallLayer, certify, solve
from percep.attacks import FrankWolfe, MinimalPerturbation, quantise
from percep.attacks.baselines import Baseline
from percep.attacks.integrations.art import ARTFrankWolfe, PyTorchClassifier
from percep.attacks.integrations.foolbox import FoolboxFrankWolfe
from percep.attacks.integrations.torchattacks import TorchattacksFrankWolfe, TorchattacksMinimalPerturbation
from percep.errors import InputError
from percep.explain.interventions.regions import top_region
from percep.explain.statistics.inference import bootstrap_interval
from percep.explain.statistics.similarity import top_membership

X = quantise(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(768, 5)).eval()
LABELS = MODEL(X).argmax(1)

# Each makes something of one number, and says what came of it.
INTEGERS: dict[str, tuple[int, Callable]] = {
    "steps": (3, lambda n: FrankWolfe(MODEL, mean=0.99, steps=n).steps),
    "restarts": (2, lambda n: FrankWolfe(MODEL, mean=0.99, restarts=n).restarts),
    "top_k": (2, lambda n: FrankWolfe(MODEL, mean=0.99, top_k=n).top_k),
    "levels": (256, lambda n: FrankWolfe(MODEL, mean=0.99, levels=n).levels),
    "gradients": (30, lambda n: MinimalPerturbation(MODEL, gradients=n).gradients),
    "top_k of a search": (2, lambda n: MinimalPerturbation(MODEL, top_k=n).top_k),
    "levels of a search": (256, lambda n: MinimalPerturbation(MODEL, levels=n).levels),
    "gradients of a baseline": (20, lambda n: Baseline("fgsm", MODEL, gradients=n).gradients),
    "steps for torchattacks": (3, lambda n: TorchattacksFrankWolfe(MODEL, steps=n).native().steps),
    "gradients for torchattacks": (
        30,
        lambda n: TorchattacksMinimalPerturbation(MODEL, gradients=n).native().gradients,
    ),
    "batch_size for art": (2, lambda n: ARTFrankWolfe(estimator(), batch_size=n).batch_size),
}


def estimator() -> PyTorchClassifier:
    return PyTorchClassifier(MODEL, nn.CrossEntropyLoss(), (3, 16, 16), 5, clip_values=(0, 1))


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_every_type_are_taken_as_pythons(name: str) -> None:
    number, make = INTEGERS[name]
    for same in (number, np.int64(number), np.int16(number), np.array(number), torch.tensor(number)):
        found = make(same)
        assert found == number and type(found) is int


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "wrong", [2.5, 3.0, "3", True, np.bool_(True), torch.tensor(True), math.nan, [3], np.ones((2, 2)), torch.ones(2, 2)]
)
def test_what_is_no_integer_is_refused_in_one_line(name: str, wrong: object) -> None:
    with pytest.raises(InputError, match=f"^{name.partition(' ')[0]} must be an integer") as caught:
        INTEGERS[name][1](wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in INTEGERS if "levels" not in name])
def test_integers_below_the_least_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name.partition(' ')[0]} must be at least \d+, got -1$"):
        INTEGERS[name][1](np.int64(-1))


def test_an_integer_of_numpys_attacks_like_pythons() -> None:
    for make in (
        lambda kind: FrankWolfe(MODEL, floor=0.9, steps=kind(2), levels=kind(256)),
        lambda kind: MinimalPerturbation(MODEL, gradients=kind(5), levels=kind(256)),
    ):
        expected, found = make(int)(X, LABELS), make(np.int32)(X, LABELS)
        assert torch.equal(found.images, expected.images) and found.images.dtype == torch.float32
    assert torch.equal(quantise(X * 0.9, np.uint16(16)), quantise(X * 0.9, 16))
    with pytest.raises(InputError, match="levels must be an integer"):
        quantise(X, "16")


MAPS = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1))
LEVELS: dict[str, Callable] = {
    "floor": lambda level: FrankWolfe(MODEL, floor=level).floor,
    "mean": lambda level: FrankWolfe(MODEL, mean=level).mean,
    "floor of a ball": lambda level: float(SSIMBall(X, floor=level).floor),
    "mean of a ball": lambda level: float(SSIMBall(X, mean=level).mean),
    "luminance_share": lambda level: SSIMBall(X, floor=0.9, luminance_share=level).luminance_share,
    "share": lambda level: int(top_region(MAPS, level, torch.Generator()).sum()) / 64,
    "share of values": lambda level: float(top_membership(MAPS.flatten(1).numpy(), level).sum()) / 64,
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels_of_every_type_are_taken(name: str) -> None:
    for same in (0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)):
        assert LEVELS[name](same) == 0.5


NO_LEVELS = [0, 1, -0.1, 1.5, math.nan, math.inf, "0.5", True, False, 0.5j, {}, torch.tensor(True), torch.tensor(2.0)]


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("wrong", NO_LEVELS, ids=str)
def test_what_is_no_level_is_refused_in_one_line(name: str, wrong: object) -> None:
    with pytest.raises(InputError, match=rf"^{name.partition(' ')[0]} must lie in \(0, 1\), got ") as caught:
        LEVELS[name](wrong)
    assert "\n" not in str(caught.value)


BALL = SSIMBall(X, floor=0.9)
POSITIVE: dict[str, Callable] = {
    "tol": lambda number: SSIMBallLayer(floor=0.9, tol=number).tol,
    "smoothing": lambda number: SSIMBallLayer(floor=0.9, smoothing=number).smoothing,
    "tol of a solver": lambda number: 0.5 if solve(Program(BALL, X), tol=number).status else None,
}


@pytest.mark.parametrize("name", POSITIVE)
def test_tolerances_are_positive_numbers_of_any_type(name: str) -> None:
    for same in (0.5, np.float32(0.5), torch.tensor(0.5)):
        assert POSITIVE[name](same) == 0.5
    for wrong in (0, -1.0, math.nan, math.inf, "1e-3", True, torch.ones(2)):
        with pytest.raises(InputError, match=rf"^{name.partition(' ')[0]} must be positive, got ") as caught:
            POSITIVE[name](wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["1", 1j, True, {}, [[1.0], [1.0, 2.0]], -1.0, math.nan, torch.ones(3)], ids=str)
def test_a_proximal_weight_is_a_number_of_at_least_0(wrong: object) -> None:
    with pytest.raises(InputError, match=r"^proximal must be ") as caught:
        Program(BALL, X, wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["floor", "mean"])
def test_an_attack_has_one_level_for_all_images(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} must lie in \(0, 1\), got Tensor \(2,\)$"):
        FrankWolfe(MODEL, **{name: torch.tensor([0.5, 0.6])})


@pytest.mark.parametrize("name", ["floor", "mean"])
def test_certificates_take_any_value_of_ssim(name: str) -> None:
    for level in (-1, 0, 1, 0.5, np.float32(0.5), torch.tensor(0.5)):
        assert certify(X, X, **{name: level}).within.tolist() == [True]
    for wrong in (-1.1, 1.1, math.nan, "0.5", True, torch.tensor([0.5])):
        with pytest.raises(InputError, match=rf"^{name} must lie in \[-1, 1\], got ") as caught:
            certify(X, X, **{name: wrong})
        assert "\n" not in str(caught.value)


def test_an_interval_s_level_and_foolbox_s_steps() -> None:
    for wrong in ("0.95", math.nan, True):
        with pytest.raises(InputError, match=r"^level must lie in \(0, 1\)"):
            bootstrap_interval(np.arange(5.0), 0, level=wrong)
    with pytest.raises(InputError, match=r"^steps must be an integer, got 2\.5$"):
        FoolboxFrankWolfe(steps=2.5)(foolbox.PyTorchModel(MODEL, (0, 1), device="cpu"), X, LABELS, epsilons=0.01)
