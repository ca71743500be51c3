"""The command on photographs with and without labels, and on networks of other kinds: a transformer, a grey one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from percep import models
from percep.attacks import FrankWolfe
from percep.cli.main import main
from percep.data.photographs import Photograph
from percep.errors import InputError
from percep.models import Classifier, Preprocessing
from percep.report import read_image
from percep.runs.failures import network_failures
from tests.support.command import CLASSES, SIDE, complaint, photograph, small_classifier

pytestmark = pytest.mark.usefixtures("one_thread", "elsewhere")

ATTACK = ("data=folder", "data.path=photos", "ball.mean=0.9", "output=out")


class Transformer(nn.Module):
    """Patches, one block of attention, and no map in front of the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, len(CLASSES))
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.4, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.norm(tokens).mean(1))


class Grey(nn.Module):
    """A network for one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 5, stride=2, padding=2)
        self.stage = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, len(CLASSES))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.5, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stage(self.stem(images).relu()).relu().mean((2, 3)))


def classifier(network: nn.Module, channels: int, side: int) -> Classifier:
    found = Classifier(
        network,
        mean=[0.0] * channels,
        std=[1.0] * channels,
        categories=CLASSES,
        preprocessing=Preprocessing(resize=side, crop=side, channels=channels),
    )
    return found.eval().requires_grad_(False)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Classifier], None]:
    """Whatever model the command asks for, it is given this one."""

    def give(model: Classifier) -> None:
        monkeypatch.setattr(models, "load", lambda *_, **__: model)

    return give


def results(task: str = "attack") -> pd.DataFrame:
    return pd.read_csv("out/compare.csv" if task == "compare" else "out/results.csv").set_index("name", drop=False)


def summary() -> dict:
    return json.loads(Path("out/summary.json").read_text())


def labelled(model: Classifier) -> dict[str, str]:
    """Two photographs in the folder of the model's own prediction, one in another; the labels by name."""
    found = {}
    for seed, name in enumerate(("a", "b", "d")):
        image = torch.from_numpy(np.array(photograph(seed))).permute(2, 0, 1)[None] / 255
        place = int(model(image).argmax())
        label = CLASSES[(place + (name == "d")) % len(CLASSES)]
        Path(f"own/{label}").mkdir(parents=True, exist_ok=True)
        Path(f"photos/{name}.png").rename(f"own/{label}/{name}.png")
        found[f"{label}_{name}"] = label
    return found


class TestLabels:
    @pytest.mark.slow("a run of the command, with its pictures and its page")
    def test_without_labels_nothing_is_said_of_accuracy(self, use, capsys) -> None:
        use(small_classifier())
        Path("photos/c.jpg").unlink()
        assert main([*ATTACK]) == 0
        table = results()
        changed = int(table.success.sum())
        assert changed == (table.predicted_before != table.predicted_after).sum() >= 1
        sentence = f"{changed} of 3 predictions changed; no labels given, so nothing is said of accuracy"
        printed = capsys.readouterr().out
        page = Path("out/report.html").read_text()
        assert sentence in printed and sentence in page
        assert "correctly classified" not in printed + page
        assert page.count("<dd>not given</dd>") == 3 and "<dd>no labels</dd>" in page
        assert table.label.isna().all() and table.label_name.isna().all() and table.predicted_before.notna().all()
        told = summary()
        counts = ("labelled", "correct_before", "without_label", "successes", "changed", "at_chance", "classes")
        assert [told[name] for name in counts] == [0, None, 3, changed, changed, None, 4]

    @pytest.mark.slow("a run of the command, with its pictures and its page")
    def test_with_labels_success_is_over_what_was_right(self, use, capsys) -> None:
        model = small_classifier()
        use(model)
        labels = labelled(model)
        assert main([*ATTACK, "data.path=own", "ball.mean=0.5"]) == 0
        assert "2 of 2 correctly classified photographs fooled, all certified" in capsys.readouterr().out
        assert "<dd>2 of 3</dd>" in Path("out/report.html").read_text()
        table = results()
        assert dict(table.label_name) == labels
        assert (table.label == table.predicted_before).tolist() == [not name.endswith("_d") for name in table.name]
        told = summary()
        counts = ("labelled", "correct_before", "without_label", "successes", "changed")
        assert [told[name] for name in counts] == [3, 2, 0, 2, 0]

    @pytest.mark.slow("a run of the command, with its pictures and its page")
    def test_a_target_that_is_the_class_already_is_no_success(self, use, capsys) -> None:
        model = small_classifier()
        use(model)
        image = torch.from_numpy(np.array(photograph(0))).permute(2, 0, 1)[None] / 255
        own = int(model(image).argmax())
        assert main(["data=image", "data.path=photos/a.png", f"attack.target={own}", "output=out"]) == 0
        table = results()
        assert table.status["a"] == "already_adversarial"
        assert (table.target["a"], table.target_name["a"]) == (own, CLASSES[own])
        assert "0 of 1 prediction changed to their target class" in capsys.readouterr().out
        assert (summary()["successes"], summary()["at_goal"]) == (0, 1)

    @pytest.mark.slow("a run of the command, with its pictures and its page")
    def test_a_comparison_without_labels_says_so(self, use, capsys) -> None:
        use(small_classifier())
        arguments = ["task=compare", "data=folder", "data.path=photos", "compare.attacks=[fgsm]", "output=out"]
        assert main([*arguments, "compare.gradients=20"]) == 0
        table = results("compare")
        assert table.label.isna().all()
        assert list(table.predicted_before.notna()) == [True, True, False, True]
        told = summary()
        assert (told["labelled"], told["correct_before"], told["without_label"]) == (0, None, 3)
        sentence = "No labels given, so nothing is said of accuracy"
        assert sentence in capsys.readouterr().out and sentence in Path("out/report.html").read_text()

    @pytest.mark.slow("runs a study")
    def test_a_study_without_labels_says_so(self, use, capsys) -> None:
        use(small_classifier())
        arguments = ["task=explain", "study=quick", "study.block=8", "study.sweep=[]", "study.baselines=[]", *ATTACK]
        assert main([*arguments, "ball.mean=0.7"]) == 0
        told = summary()
        assert (told["labelled"], told["correct_before"], told["without_label"]) == (0, None, 3)
        page = Path("out/report.html").read_text()
        sentence = "No labels given, so nothing is said of accuracy"
        assert sentence in capsys.readouterr().out and sentence in page
        assert page.count("<dt>Label</dt><dd>not given</dd>") == 3


class TestTransformer:
    @pytest.mark.slow("a run of the command, with its pictures and its page")
    @pytest.mark.parametrize("task", ["attack", "minimal"])
    def test_it_is_attacked_without_grad_cam(self, use, task: str) -> None:
        model = classifier(Transformer(), 3, SIDE)
        use(model)
        own = ("attack.gradients=20",) if task == "minimal" else ("ball.mean=0.9",)
        assert main([f"task={task}", "data=folder", "data.path=photos", "output=out", *own]) == 0
        table = results().drop(index="c")
        for row in table.itertuples():
            saved = read_image(Path(f"out/adversarial/{row.name}.png"))[None]
            assert int(model(saved).argmax()) == row.predicted_after
        assert table.success.any()
        assert table.pearson_dissimilarity_gradcam.isna().all() and table.spearman_gradcam_texture.isna().all()
        assert table.pearson_dissimilarity_texture.notna().all()  # which needs none
        assert table.zero_gradcam.isna().all()
        assert all("no layer for Grad-CAM" in reason for reason in table.undefined)
        told = summary()
        assert told["associations"]["dissimilarity_gradcam"]["images"] == 0
        assert told["associations"]["dissimilarity_texture"]["images"] == 3
        assert told["zero_gradcam_maps"] == 0
        page = Path("out/report.html").read_text()
        assert page.count('<div class="absent"') == 3 and "Colour scale of Grad-CAM" not in page
        for picture in ("panels/a.png", "overview.png"):
            assert Path(f"out/{picture}").stat().st_size > 10_000

    def test_a_study_refuses_it_before_anything_is_computed(self, use, capsys) -> None:
        use(classifier(Transformer(), 3, SIDE))
        line = complaint(capsys, "task=explain", "study=quick", *ATTACK)
        assert "task=explain needs Grad-CAM: the network has no convolutional stage" in line
        assert not Path("out/parts").exists()

    @pytest.mark.slow("runs a study")
    def test_one_of_timm_is_studied(self, use) -> None:
        small = {"img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
        network = timm.create_model("vit_tiny_patch16_224", num_classes=len(CLASSES), **small)
        generator = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.4, generator=generator)
        use(classifier(network, 3, SIDE))
        assert main([*ATTACK]) == 0
        assert results().drop(index="c").zero_gradcam.notna().all()
        arguments = (
            "task=explain",
            "study=quick",
            "study.block=8",
            "study.sweep=[]",
            "study.baselines=[]",
            *ATTACK[:-1],
        )
        assert main([*arguments, "ball.mean=0.7", "output=study"]) == 0
        rows = pd.read_csv("study/associations.csv")
        seen = rows[(rows["first"] == "dissimilarity") & (rows.statistic == "spearman")].set_index("second").images
        assert seen["gradcam"] > 0 and seen["occlusion"] > 0 and "gradcam_randomised_1" in seen.index

    def test_a_layer_that_is_named_and_not_there_is_refused(self, use, capsys) -> None:
        model = classifier(Transformer(), 3, SIDE)
        model.layer = "missing"
        use(model)
        assert "missing" in complaint(capsys, *ATTACK)


class Detached(nn.Module):
    """A convolution that passes no gradient, beside a path that does."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Conv2d(3, 8, 3)
        self.head, self.beside = nn.Linear(8, len(CLASSES)), nn.Linear(3 * SIDE * SIDE, len(CLASSES))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.3, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.stage(images).mean((2, 3))
        return self.head(features) + self.beside(images.flatten(1))


class TestWithoutHooksOrGradients:
    """Networks whose Grad-CAM fails in a library, which costs them nothing else."""

    @pytest.mark.slow("a run of the command, with its pictures and its page")
    @pytest.mark.parametrize("kind", ["script", "detached"])
    @pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
    def test_they_are_attacked(self, use, capsys, kind: str) -> None:
        model = classifier(torch.jit.script(Detached()) if kind == "script" else Detached(), 3, SIDE)
        use(model)
        assert main([*ATTACK]) == 0
        table = results().drop(index="c")
        assert table.success.any()
        for row in table.itertuples():
            saved = read_image(Path(f"out/adversarial/{row.name}.png"))[None]
            assert int(model(saved).argmax()) == row.predicted_after
        assert all("Grad-CAM fails: " in reason for reason in table.undefined)
        assert table.zero_gradcam.isna().all()
        capsys.readouterr()
        line = complaint(capsys, "task=explain", "study=quick", *ATTACK[:-1], "output=study")
        assert "task=explain needs Grad-CAM: Grad-CAM fails: " in line


class TestGrey:
    @pytest.mark.slow("a run of the command, with its pictures and its page")
    @pytest.mark.parametrize(
        "task", ["attack", "minimal", "compare", pytest.param("explain", marks=pytest.mark.slow("runs a study"))]
    )
    def test_one_channel_from_the_file_to_the_report(self, use, task: str) -> None:
        model = classifier(Grey(), 1, 28)
        use(model)
        own = {
            "attack": ["ball.mean=0.7"],
            "minimal": ["attack.gradients=20"],
            "compare": ["compare.gradients=20", "compare.attacks=[ddn,fgsm]"],
            "explain": ["study=quick", "study.block=7", "study.sweep=[]", "study.baselines=[]", "ball.mean=0.05"],
        }[task]
        assert main([f"task={task}", "data=folder", "data.path=photos", "output=out", *own]) == 0
        page = Path("out/report.html").read_text()
        assert page.count("<article") == 3 and 'class="coarse"' in page
        if task == "compare":
            assert (results(task).status == "attacked").sum() == 6
            return
        names = {path.stem for path in Path("out/adversarial").iterdir()}
        assert names == {"a", "b", "d"}
        for name in names:
            with Image.open(f"out/adversarial/{name}.png") as picture:
                assert (picture.mode, picture.size) == ("L", (28, 28))
        if task != "explain":
            table = results().drop(index="c")
            saved = torch.stack([read_image(Path(f"out/adversarial/{name}.png")) for name in table.name])
            assert saved.shape == (3, 1, 28, 28)
            assert list(table.predicted_after) == model(saved).argmax(1).tolist()
            assert table.worst_row.between(0, 27).all() and table.worst_column.between(0, 27).all()
            with Image.open("out/panels/a.png") as panel, Image.open("out/overview.png") as sheet:
                assert (panel.size, sheet.width) == ((1448, 1112), 1442)


@pytest.mark.slow("a run of the command, with its pictures and its page")
def test_a_network_at_chance_is_warned_of(use, capsys) -> None:
    """Labels that are all wrong, enough of them to say so."""
    model = small_classifier()
    use(model)
    for seed in range(30):
        image = photograph(seed)
        place = int(model(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255).argmax())
        label = CLASSES[place if seed % 4 == 0 else (place + 1) % len(CLASSES)]
        Path(f"own/{label}").mkdir(parents=True, exist_ok=True)
        image.save(f"own/{label}/{seed}.png")
    arguments = ["data=folder", "data.path=own", "attack.steps=1", "ball.mean=0.9", "pictures=0", "output=out"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    warning = "8 of 30 labelled photographs are classified correctly, of 4 classes"
    assert f"warning: {warning}" in printed and warning in Path("out/report.html").read_text()
    assert summary()["at_chance"] is True


class OneByOne(Grey):
    """For one image at a time."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 1:
            raise ValueError("one image, please")
        return super().forward(images)


class Checkpointed(Grey):
    """Without a gradient with respect to images, by torch's older checkpoints."""

    def forward(self, images: Tensor) -> Tensor:
        features = checkpoint(lambda x: self.stage(self.stem(x).relu()), images, use_reentrant=True)
        return self.head(features.relu().mean((2, 3)))


class Leaving(Grey):
    def forward(self, images: Tensor) -> Tensor:
        if images.any():  # it answers the black image of the first check
            sys.exit(3)
        return super().forward(images)


TASKS = {
    "attack": ["ball.mean=0.7"],
    "minimal": ["attack.gradients=20"],
    "compare": ["compare.gradients=20", "compare.attacks=[fgsm]"],
    "explain": ["study=quick", "study.block=4", "study.sweep=[]", "study.baselines=[]", "ball.mean=0.05"],
}


class TestFailing:
    """Networks that fail once they are attacked: one line."""

    @pytest.mark.parametrize("task", ["attack", "minimal", "explain"])
    def test_in_a_batch_only(self, use, capsys, task: str) -> None:
        use(classifier(OneByOne(), 1, 28))
        command = [f"task={task}", "data=folder", "data.path=photos", "output=out", *TASKS[task]]
        line = complaint(capsys, *command)
        told = "the network fails on a batch of 3 images (ValueError: one image, please): on one image it works, "
        assert line == f"percep: {told}batch_size=1 gives it one at a time"

    @pytest.mark.slow("a run of the command, with its pictures and its page")
    def test_with_batch_size_1_it_is_attacked(self, use) -> None:
        use(classifier(OneByOne(), 1, 28))
        assert main([*ATTACK, "batch_size=1"]) == 0
        assert results().predicted_after.notna().sum() == 3

    def test_in_a_batch_that_is_made_of_one_photograph(self) -> None:
        model = classifier(OneByOne(), 1, 28)
        one = Photograph("a", Path("a.png"), torch.rand(1, 28, 28))
        message = (
            r"on a batch of 2 images \(ValueError: .*\): on one image it works, and this task needs batches of it$"
        )
        with pytest.raises(InputError, match=message), network_failures(model, [one]):
            model(torch.rand(2, 1, 28, 28))

    @pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
    @pytest.mark.parametrize("task", ["attack", "minimal", "compare"])
    def test_in_the_gradient_only(self, use, capsys, task: str) -> None:
        use(classifier(Checkpointed(), 1, 28))
        command = [f"task={task}", "data=folder", "data.path=photos", "output=out", *TASKS[task]]
        line = complaint(capsys, *command)
        assert line.startswith("percep: the network's gradient fails (RuntimeError: ")
        assert "use_reentrant=False" in line and "batch_size" not in line

    @pytest.mark.parametrize("task", ["attack", "compare"])
    def test_by_leaving(self, use, capsys, task: str) -> None:
        use(classifier(Leaving(), 1, 28))
        command = [f"task={task}", "data=folder", "data.path=photos", "output=out", *TASKS[task]]
        line = complaint(capsys, *command)
        assert line.startswith("percep: the network fails on ") and line.endswith("(SystemExit: 3)")

    @pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), KeyboardInterrupt(), ValueError("ours")])
    def test_all_else_passes(self, error: BaseException) -> None:
        model = classifier(Grey(), 1, 28)
        with pytest.raises(type(error)) as caught, network_failures(model):
            raise error
        assert caught.value is error

    def test_in_python_it_passes(self) -> None:
        images = torch.rand(2, 1, 28, 28).mul(255).round() / 255
        with pytest.raises(ValueError, match=r"^one image, please$"):
            FrankWolfe(classifier(OneByOne(), 1, 28), mean=0.9)(images, torch.zeros(2, dtype=torch.int64))
