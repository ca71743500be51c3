"""Networks of one's own: built by import path, probed, named, and every way in which that can fail."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from percep import models
from percep.cli.main import main
from percep.errors import InputError
from percep.models import Preprocessing

HERE = f"{__name__}."


class Net(nn.Module):
    """For images of `side` pixels of `channels` channels; `answer` wraps the logits."""

    def __init__(self, channels: int = 3, side: int = 32, classes: int = 10, answer: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stage = nn.Conv2d(channels, 4, 5, stride=2)
        self.head = nn.Linear(4 * ((side - 3) // 2) ** 2, classes)
        self.answer = answer

    def forward(self, images: Tensor) -> object:
        logits = self.head(self.stage(images).relu().flatten(1))
        answers = {"tensor": logits, "tuple": (logits, images), "dict": {"logits": logits, "features": logits + 1}}
        return answers.get(self.answer, SimpleNamespace(logits=logits))


def failing(**_: object) -> nn.Module:
    raise RuntimeError("no such\nfile of weights")


def given(**arguments: Any) -> nn.Module:
    network = Net()
    network.arguments = arguments
    return network


def nothing() -> None:
    """Forgets its return."""


class Fails(Net):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("images must be BGR")


@pytest.fixture(autouse=True)
def importable() -> Iterator[None]:
    """This file is imported by the name it has here, so that `_target_` finds it."""
    sys.modules.setdefault(__name__, sys.modules[Net.__module__])
    yield


def _load(target: str, crop: int | None = 32, *, settings: dict[str, Any] | None = None, **arguments: Any):
    network = {"_target_": target if "." in target else HERE + target, **arguments}
    return models.load(source="custom", network=network, crop=crop, **settings or {})


def test_a_plain_network_for_small_images() -> None:
    model = _load("Net")
    images = torch.rand(2, 3, 32, 32)
    assert model(images).equal(Net().head(Net().stage(images).relu().flatten(1)))  # normalised by nobody
    assert model.preprocessing == Preprocessing(32, 32, InterpolationMode.BICUBIC)
    assert model.categories == tuple("0123456789") and model.class_index["9"] == 9
    assert not model.training and not any(value.requires_grad for value in model.parameters())


def test_a_network_of_grey_images() -> None:
    model = _load("Net", 28, channels=1, side=28, settings={"mean": [0.5], "std": [0.25]})
    assert model.preprocessing == Preprocessing(28, 28, channels=1)
    images = torch.rand(2, 1, 28, 28)
    network = Net(1, 28)
    assert model(images).equal(network((images - 0.5) / 0.25))
    assert _load("Net", 28, channels=1, side=28, settings={"mean": [0.5]}).std.flatten().tolist() == [1]


def test_every_setting_is_the_networks(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffant\r\n bee \r\ncat\r\n\r\n", encoding="utf-8")
    state = {key: value + 1 for key, value in Net(classes=3).state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    settings = {
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 2, 3],
        "resize": 40,
        "interpolation": "box",
        "categories": tmp_path / "names.txt",
        "checkpoint": tmp_path / "weights.pt",
        "layer": "stage",
    }
    model = _load("Net", classes=3, settings=settings)
    assert model.categories == ("ant", "bee", "cat") and model.layer == "stage"
    assert model.preprocessing == Preprocessing(40, 32, InterpolationMode.BOX)
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.std.flatten().tolist() == [1, 2, 3]
    assert all(value.equal(state[key]) for key, value in model.network.state_dict().items())


@pytest.mark.parametrize("answer", ["tuple", "dict", "object"])
def test_logits_in_a_container(answer: str) -> None:
    images = torch.rand(2, 3, 32, 32)
    assert _load("Net", answer=answer)(images).equal(Net()(images))


def test_a_background_class_before_imagenets() -> None:
    model = _load("Net", classes=1001, settings={"categories": "imagenet", "first_class": 1})
    index = model.class_index
    assert index["tench"] == index["n01440764"] == index["0"] == 1
    assert index["jeep"] == index["n03594945"] == index["609"] == 610
    assert index["999"] == 1000 and "1000" not in index and "background" not in index
    assert (model.category(0), model.category(610), len(model.categories)) == ("background", "jeep", 1001)
    numbered = _load("Net", classes=11, settings={"first_class": 1})
    assert numbered.class_index == {str(i): i + 1 for i in range(10)}


def test_timms_mobilenet_as_tensorflow_pads_it(tmp_path: Path) -> None:
    arguments = {"model_name": "mobilenetv2_100", "pad_type": "same"}
    state = timm.create_model(**arguments).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    settings = {"checkpoint": tmp_path / "weights.pth", "categories": "imagenet", "resize": 256}
    model = _load("timm.create_model", 224, **arguments, settings=settings)
    assert type(model.network.conv_stem).__name__ == "Conv2dSame"
    assert all(value.equal(state[key]) for key, value in model.network.state_dict().items())
    assert model.class_index["jeep"] == 609


def test_arguments_are_pythons_own_and_may_be_calls() -> None:
    inner = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    model = _load("given", widths=[1, 2], options={"a": [3]}, head=inner, width=1.0)
    found = model.network.arguments
    assert type(found["widths"]) is list and type(found["options"]) is dict and found["options"] == {"a": [3]}
    assert found["head"].out_features == 3 and found["width"] == 1.0


def test_the_working_folder_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "percep_test_package").mkdir()
    (tmp_path / "percep_test_package" / "__init__.py").write_text(
        "from torch import nn\n\ndef build(width):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, width))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert _load("percep_test_package.build", 2, width=7)(torch.rand(1, 3, 2, 2)).shape == (1, 7)


def test_settings_of_every_other_source() -> None:
    model = models.load(resize=300, crop=200, interpolation="lanczos", mean=[0, 0, 0], std=[1, 1, 1])
    assert model.preprocessing == Preprocessing(300, 200, InterpolationMode.LANCZOS)
    assert model.mean.flatten().tolist() == [0, 0, 0] and model.class_index["jeep"] == 609
    assert models.load(resize=300).preprocessing == Preprocessing(300, 224)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 300}, r"^resize must be at least crop, got 256 and 300: give both$"),
        (
            {"first_class": 1},
            r"^efficientnet_lite0 returns 1000 logits for 1 \+ 1000 categories: .*, so first_class=0$",
        ),
        ({"categories": ["ant", "bee"]}, r"returns 1000 logits for 0 \+ 2 categories"),
        ({"mean": [0.5]}, r"^mean needs 3 values"),
        ({"network": {"_target_": "a.b"}}, r"^network belongs to the source custom, and this one is packaged$"),
    ],
)
def test_settings_that_do_not_fit_a_named_model(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.load(**settings)


def test_an_input_size_that_a_transformer_does_not_take(tmp_path: Path) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(
        InputError, match=r"^vit_tiny_patch16_224 fails on a 96 x 96 image of 3 channels \(AssertionError: .*crop is"
    ):
        models.load("vit_tiny_patch16_224", source="timm", checkpoint=tmp_path / "weights.pt", crop=96, resize=96)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("no_such_package.build", {}, "no_such_package.build cannot be built: .*No module named 'no_such_package'"),
        ("Absent", {}, "cannot be built: ImportError: .*'Absent' is importable"),
        ("failing", {}, "cannot be built: RuntimeError: no such file of weights$"),
        ("Net", {"widht": 1}, "cannot be built: TypeError: .*widht"),
        ("given", {"head": {"_target_": "torch.nn.Linear"}}, "cannot be built: TypeError: .*in_features"),
        ("nothing", {}, "returns a NoneType, not a torch.nn.Module$"),
        ("Net", {"_partial_": True}, "leave _partial_ out$"),
        ("Fails", {}, r"fails on a 32 x 32 image of 3 channels \(AssertionError: images must be BGR\)"),
        ("Net", {"channels": 1}, r"fails on .* mean has a value per channel$"),
        ("Net", {"classes": 1}, "returns 1 logits"),
        ("torch.nn.Identity", {}, r"Identity: the model must return \(1, K\) logits, got \(1, 3, 32, 32\)$"),
    ],
)
def test_networks_that_are_none(target: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _load(target, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": None}, "^crop is missing"),
        ({"network": None}, "^network is missing"),
        ({"network": "my_package.build"}, "^network must be a callable by import path"),
        ({"network": Net()}, r"belongs in percep\.models\.Classifier$"),
        ({"network": {"width": 1}}, "^network must be a callable by import path"),
        ({"mean": [0], "std": [1, 1, 1]}, r"got 1 and 3: for grey images mean=\[0\] std=\[1\]$"),
        ({"mean": [0, 0]}, "^mean needs one value per channel"),
        ({"std": [1, 0, 1]}, "^std must be above 0"),
        ({"mean": [math.nan, 0, 0]}, r"^mean must be finite, got \[nan, 0, 0\]$"),
        ({"mean": [0, -math.inf, 0]}, "^mean must be finite"),
        ({"std": [1, math.inf, 1]}, "^std must be above 0 and finite"),
        ({"std": [math.nan]}, "^std must be above 0 and finite"),
        ({"std": [1e-60]}, "^std must be above 0 and finite"),  # 0 in float32
        ({"crop": 0}, "^crop must be at least 1"),
        ({"resize": 16}, "^resize must be at least crop, got 16 and 32$"),
        ({"interpolation": "cubic"}, "^interpolation must be one of nearest, .*'cubic'$"),
        ({"first_class": -1}, "^first_class must be at least 0"),
        ({"first_class": 10}, "returns 10 logits, which are no classes from 10 on$"),
        ({"categories": "imagenet"}, r"returns 10 logits for 0 \+ 1000 categories: give categories with 10 names$"),
        ({"categories": ["a"] * 9}, r"10 logits for 0 \+ 9 categories: first_class=1 if the first 1 are no classes$"),
        ({"categories": "no.txt"}, "^categories no.txt: No such file"),
    ],
)
def test_settings_that_do_not_hold_together(settings: dict[str, Any], message: str) -> None:
    complete = {"network": {"_target_": HERE + "Net"}, "crop": 32}
    with pytest.raises(InputError, match=message):
        models.load(source="custom", **complete | settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [("ant\n\nbee\n", "line 2 has no name$"), ("", "it is empty$"), (b"\xff\xfe\x00", "no UTF-8 text")],
)
def test_files_that_name_no_classes(content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        _load("Net", settings={"categories": tmp_path / "names.txt"})


# -- the command

OWN = ("model=custom", f"model.network={{_target_: {HERE}Net, classes: 4, answer: tuple}}", "model.crop=32")


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("elsewhere")
def test_the_command_attacks_a_network_of_ones_own_and_continues(capsys: pytest.CaptureFixture[str]) -> None:
    command = (*OWN, "data=folder", "data.path=photos", "output=out", "attack.steps=1", "pictures=1")
    assert main(command) == 0
    assert "Outputs are in out" in capsys.readouterr().out
    assert Image.open("out/adversarial/a.png").size == (32, 32)
    assert main(command) == 0
    assert main(["task=merge", "output=out"]) == 0
    assert "model.network._target_" in Path("out/report.html").read_text()


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("elsewhere", "one_thread")
def test_the_command_attacks_a_network_of_grey_images_with_a_background_class() -> None:
    Path("labels.csv").write_text("name,label\na,1\nb,2\nd,3\n")
    own = f"model.network={{_target_: {HERE}Net, channels: 1, side: 28, classes: 4}}"
    settings = ("model.crop=28", "model.mean=[0]", "model.std=[1]", "model.first_class=1")
    photographs = ("data=folder", "data.path=photos", "data.labels=labels.csv", "data.first_class=1", "output=out")
    assert main(["model=custom", own, *settings, *photographs, "attack.steps=1"]) == 0
    saved = Image.open("out/adversarial/a.png")
    assert saved.mode == "L" and saved.size == (28, 28)
    rows = pd.read_csv("out/results.csv").dropna(subset="label")
    assert dict(zip(rows["name"], rows["label"].astype(int), strict=True)) == {"a": 1, "b": 2, "d": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model=custom",), "model.network is missing: a callable by import path"),
        (OWN[:2], "model.crop is missing"),
        ((OWN[0], "model.network=my_package.build", OWN[2]), "model.network must be a callable by import path"),
        ((*OWN, "model.mean=[0]"), "for grey images model.mean=[0] model.std=[1]"),
        ((*OWN, "model.interpolation=cubic"), "model.interpolation must be one of nearest"),
        ((*OWN, "model.checkpoint=no.pt"), "checkpoint no.pt is not a file"),
        (("model.resize=20", "model.crop=30"), "model.resize must be at least model.crop, got 20 and 30"),
        (("model.crop=wide",), "model.crop: "),
        (("model.mean=[nan,0,0]",), "model.mean must be finite, got [nan, 0.0, 0.0]"),
        ((*OWN, "model.std=[1,inf,1]"), "model.std must be above 0 and finite, got [1.0, inf, 1.0]"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_the_command_says_what_to_change_in_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "data=folder", "data.path=photos", "output=out"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


class SelfCasting(Net):
    """In float64, for float32 images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.double()).float()


def in_numbers(kind: str, casting: bool = False) -> nn.Module:
    return (SelfCasting() if casting else Net()).to(getattr(torch, kind))


@pytest.mark.parametrize("kind", ["float64", "bfloat16", "float16"])
def test_a_network_of_other_numbers_is_converted_to_float32(kind: str) -> None:
    model = _load("in_numbers", kind=kind)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    rounded = Net().to(getattr(torch, kind)).float()
    assert model(images).equal(rounded(images))
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    assert gradient.dtype == torch.float32 and gradient.abs().sum() > 0


def test_a_network_that_converts_images_itself_stays_as_it_is() -> None:
    model = _load("in_numbers", kind="float64", casting=True)
    assert next(model.network.parameters()).dtype == torch.float64
    images = torch.rand(1, 3, 32, 32)
    assert model(images).equal(Net().double()(images.double()).float())


BUILT = Net()


def stopping() -> nn.Module:
    sys.exit(3)


def test_a_module_that_is_there_is_taken() -> None:
    assert _load("BUILT").network is BUILT
    with pytest.raises(InputError, match=r"BUILT is a module that is built already: it takes no arguments, got width"):
        _load("BUILT", width=3)


def test_a_partial_network_and_one_that_stops_the_process_are_one_line() -> None:
    with pytest.raises(InputError, match=r"network .*Net is not built with _partial_: true: leave _partial_ out"):
        _load("Net", _partial_=True)
    with pytest.raises(InputError, match=r"network .*stopping cannot be built: SystemExit: 3"):
        _load("stopping")
