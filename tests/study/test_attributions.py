"""Attributions of one's own: any function of a model, images and labels, and what is said of one that will not do."""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from percep.errors import InputError
from percep.explain import gradcam
from percep.models import Classifier
from percep.study.attributions import ATTRIBUTIONS, chosen_attributions, is_attribution
from percep.study.criteria import display_name

OWN = """import torch

not_a_function = 3


def plain_gradient(model, images, labels):
    chosen = model(images.requires_grad_()).gather(1, labels[:, None])
    return torch.autograd.grad(chosen.sum(), images)[0].abs().sum(1)
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file of the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("own_maps.py").write_text(OWN)
    Path("own_faults.py").write_text("raise SystemExit('no\\nlicence')")
    yield
    for name in ("own_maps", "own_faults"):
        sys.modules.pop(name, None)


def inputs() -> tuple[Classifier, Tensor, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(network, mean=[0.0] * 3, std=[1.0] * 3).eval().requires_grad_(False)
    return model, torch.rand(2, 3, 8, 12), torch.tensor([1, 3])


def occlusion(_model: Classifier, images: Tensor, _labels: Tensor) -> Tensor:
    return images.mean(1)


def signed(_model: Classifier, images: Tensor, labels: Tensor) -> np.ndarray:
    images -= 0.5  # of a copy
    labels += 1
    return images.mean(1).numpy().astype(np.float64)


def test_names_paths_and_functions_are_one_list() -> None:
    chosen = chosen_attributions(["own_maps.plain_gradient", "gradcam", signed, functools.partial(signed)])
    own = f"{__name__}.signed"
    assert list(chosen) == ["own_maps.plain_gradient", "gradcam", own, "functools.partial"]
    assert [one.title for one in chosen.values()] == ["plain gradient", "Grad-CAM", "signed", "partial"]
    assert [display_name(name) for name in chosen] == [one.title for one in chosen.values()]
    assert all(map(is_attribution, [*chosen, *ATTRIBUTIONS]))
    assert not any(map(is_attribution, ("wrong_class", "edges", "gradcam_randomised_1")))
    assert chosen_attributions([]) == {}


def test_a_function_of_the_working_folder_is_given_what_it_needs() -> None:
    model, images, labels = inputs()
    (own,) = chosen_attributions(["own_maps.plain_gradient"]).values()
    with torch.inference_mode():
        maps = own.maps(model, images, labels, 1)
    apart = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(apart)[[0, 1], labels].sum(), apart)
    torch.testing.assert_close(maps, gradient.abs().sum(1))
    assert not maps.requires_grad and not images.requires_grad


def test_evidence_against_a_class_counts_as_none() -> None:
    model, images, labels = inputs()
    (own,) = chosen_attributions([signed]).values()
    before = images.clone(), labels.clone()
    maps = own.maps(model, images, labels, 1)
    torch.testing.assert_close(maps, (images.mean(1) - 0.5).clamp_min(0))
    assert maps.dtype == images.dtype and (maps == 0).any() and (maps > 0).any()
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


def test_a_library_function_of_this_form_is_one() -> None:
    model, images, labels = inputs()
    (own,) = chosen_attributions([gradcam]).values()
    assert torch.equal(own.maps(model, images, labels, 1), gradcam(model, images, labels))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["grad_cam"], "unknown attribution 'grad_cam': did you mean gradcam.* and import paths"),
        (["occlusion", "occlusion"], "attribution occlusion is there more than once"),
        (
            ["occlusion", occlusion],
            "reports call both occlusion and .*occlusion occlusion: give a function another name",
        ),
        ([signed, signed], "signed is there more than once"),
        (["own_maps.missing"], "attribution own_maps.missing cannot be imported .*give a function as"),
        (["own_nothing.maps"], "attribution own_nothing.maps cannot be imported"),
        (["own_faults.maps"], r"own_faults.maps cannot be imported \(SystemExit: no licence\)"),
        (["own_maps.not_a_function"], "own_maps.not_a_function is a int, not a function of model, images and labels"),
    ],
)
def test_what_leads_to_no_function_is_told(entries: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        chosen_attributions(entries)
    assert "\n" not in str(caught.value)


def raising(*_: object) -> Tensor:
    raise KeyError("layer4")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raising, r"raising fails \(KeyError: 'layer4'\)"),
        (lambda _m, images, _l: images, r"maps of shape \(2, 3, 8, 12\), not \(2, 8, 12\): one of the image's size"),
        (lambda _m, images, _l: images[:1, 0], r"maps of shape \(1, 8, 12\), not \(2, 8, 12\)"),
        (lambda _m, images, _l: images[:, 0] / 0, "maps that are not finite"),
        (lambda *_: None, "returns a NoneType, not a tensor or an array"),
    ],
)
def test_what_a_function_must_not_do_is_told(function: object, message: str) -> None:
    (own,) = chosen_attributions([function]).values()
    with pytest.raises(InputError, match=message):
        own.maps(*inputs(), 1)


def test_a_lack_of_memory_is_no_fault_of_a_function() -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError

    (own,) = chosen_attributions([full]).values()
    with pytest.raises(torch.OutOfMemoryError):
        own.maps(*inputs(), 1)
