"""What may be chosen is what there is: names are checked without the modules that give them a meaning."""

from typing import get_args

import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from percep import InputError, choices
from percep.attacks.baselines import baseline
from percep.attacks.cost import check_measure
from percep.attacks.criteria import loss
from percep.models.recipes import RECIPES
from percep.runs.inputs import SOURCES
from percep.study import ATTRIBUTIONS, CONTROLS


def test_every_baseline_has_its_attack() -> None:
    assert tuple(baseline._LIBRARY_ATTACKS) == choices.BASELINES


def test_every_control_has_its_gradient() -> None:
    assert tuple(CONTROLS) == choices.CONTROL_NAMES


def test_every_attribution_has_its_maps() -> None:
    assert tuple(ATTRIBUTIONS) == choices.ATTRIBUTION_NAMES


def test_every_source_has_its_recipe() -> None:
    assert (*RECIPES, "custom") == get_args(choices.Source)


def test_every_data_source_has_its_reader() -> None:
    assert sorted(["samples", *SOURCES]) == sorted(choices.DATA_SOURCES)


def test_every_filter_is_pillows() -> None:
    assert {name.upper() for name in get_args(choices.Interpolation)} <= set(Image.Resampling.__members__)
    assert all(InterpolationMode(name) for name in get_args(choices.Interpolation))


def test_every_loss_and_measure_is_known() -> None:
    logits, labels = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    found = [loss(name, logits, labels, None) for name in get_args(choices.Loss)]
    assert len({tuple(values.tolist()) for values in found}) == len(found)
    for measure in get_args(choices.Measure):
        check_measure(measure)
    with pytest.raises(InputError):
        check_measure("median")
