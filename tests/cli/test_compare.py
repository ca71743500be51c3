"""The command with task=compare: a row per attack and photograph, and one line where attacks cannot be compared."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from kornia.metrics import ssim
from PIL import Image

from percep import data, models
from percep.attacks import MinimalPerturbation
from percep.attacks.comparison import attempt
from percep.cli.main import main
from tests.support.command import CLASSES, PREPROCESSING, complaint, small_classifier
from tests.support.processes import finish, start

pytestmark = pytest.mark.usefixtures("one_thread", "elsewhere")


def _run(*overrides: str, output: str = "out") -> pd.DataFrame:
    arguments = ["task=compare", "data=folder", "data.path=photos", "compare.gradients=20", f"output={output}"]
    assert main([*arguments, *overrides]) == 0
    return pd.read_csv(f"{output}/compare.csv")


@pytest.mark.slow("the real network, on photographs of half its side")
def test_photographs_under_two_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["task=compare", "data.limit=2", "compare.gradients=20", "output=out"]
    arguments += ["model.resize=128", "model.crop=112"]
    assert main([*arguments, "compare.attacks=[pgd_l2,percep]"]) == 0
    table = pd.read_csv("out/compare.csv")
    assert list(table.attack) == ["pgd_l2", "percep"] * 2
    assert set(table.status) == {"attacked"}
    assert list(table.groupby("name", sort=False).label.first()) == [243, 559]
    assert list(table.gradient_calls) == [20] * 4
    model = models.load("efficientnet_lite0", resize=128, crop=112)
    assert model.preprocessing is not None
    photograph = next(iter(data.samples(model.preprocessing)))
    image = photograph.image[None]
    found = MinimalPerturbation(model, gradients=20)(image, torch.tensor([photograph.label])).images
    cost = 1 - float(ssim(image.double(), found.double(), 11, eps=0).mean())
    ours = table.iloc[1]
    assert ours.float_cost == ours.saved_cost == pytest.approx(cost, rel=1e-6)
    assert ours.resaved_cost <= ours.saved_cost
    assert table.floor_success.isna().all()
    fragile = table[table.attack == "pgd_l2"]
    assert fragile.float_cost.notna().all() and fragile.saved_cost.isna().all()  # nothing is left of it when rounded

    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["photographs"] == {"attacked": 2}
    for line in summary["attacks"]:
        rows = table[table.attack == line["attack"]]
        assert line["images"] == 2
        assert line["saved_success"] == rows.saved_cost.notna().mean()
        assert line["saved_cost"] == (None if line["attack"] == "pgd_l2" else pytest.approx(rows.saved_cost.median()))
    lines = Path("out/table.md").read_text().splitlines()
    assert lines[0].startswith("| attack |") and lines[2].startswith("| percep | 100%")
    assert next(line for line in lines if line.startswith("| pgd_l2 ")).split(" | ")[2] == "0%, -"
    printed = capsys.readouterr()
    assert "\n".join(lines) in printed.out and "Outputs are in out" in printed.out
    assert "4/4" in printed.err
    with Image.open("out/curves.png") as picture:
        assert picture.format == "PNG"
    page = Path("out/report.html").read_text()
    assert "interrupted" not in page and page.count("<article ") == 2
    assert page.count('class="takes"') == page.count("SSIM map of") == 4
    assert "- pgd_l2\n" in Path("out/config.yaml").read_text()


@pytest.mark.slow("a comparison, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_only_correctly_classified_photographs_are_attacked() -> None:
    predicted = CLASSES[int(small_classifier()(_image("a")).argmax())]
    wrong = next(name for name in CLASSES if name != predicted)
    for name, folder in (("a.png", predicted), ("b.png", wrong), ("c.jpg", wrong)):
        Path(f"labelled/{folder}").mkdir(parents=True, exist_ok=True)
        Path(f"photos/{name}").rename(f"labelled/{folder}/{name}")
    assert small_classifier()(_image("b", f"labelled/{wrong}")).argmax() != CLASSES.index(wrong)
    table = _run("data.path=labelled", "compare.attacks=[percep,fgsm]", "compare.floor=0.01").set_index("name")
    assert list(table.status[f"{predicted}_a"]) == ["attacked"] * 2
    assert list(table.floor_success[f"{predicted}_a"]) == [True, True]
    assert table.status[f"{wrong}_b"] == "misclassified"
    assert table.status[f"{wrong}_c"] == "unreadable: not an image of a known format"
    assert table.label_name[f"{wrong}_b"] == wrong and pd.isna(table.attack[f"{wrong}_b"])
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["photographs"] == {"attacked": 1, "misclassified": 1, "unreadable": 1}
    assert [line["images"] for line in summary["attacks"]] == [1, 1]


@pytest.mark.slow("two comparisons, of which one is of two attacks")
@pytest.mark.usefixtures("small_model")
def test_an_attack_does_the_same_in_any_company() -> None:
    alone = _run("compare.attacks=[pgd_l2]", "attack.target=random")
    others = _run("compare.attacks=[pgd_linf,pgd_l2]", "attack.target=random", output="others")
    same = others[others.attack == "pgd_l2"].reset_index(drop=True)
    attacked = alone.status == "attacked"
    assert attacked.sum() == 3 and (alone.target != alone.label)[attacked].all()
    pd.testing.assert_frame_equal(
        alone[attacked].drop(columns="seconds").reset_index(drop=True),
        same[same.status == "attacked"].drop(columns="seconds").reset_index(drop=True),
    )


@pytest.mark.slow("a comparison, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_an_interrupted_comparison_keeps_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str, *arguments: object) -> object:
        if name == "ddn":
            raise KeyboardInterrupt
        return attempt(name, *arguments)

    monkeypatch.setattr("percep.runs.comparison.task.attempt", interrupt)
    arguments = ["task=compare", "data=folder", "data.path=photos", "compare.gradients=20", "output=out"]
    assert main([*arguments, "compare.attacks=[fgsm,ddn]"]) == 130
    assert list(pd.read_csv("out/compare.csv").attack) == ["fgsm"]
    assert [line["attack"] for line in json.loads(Path("out/summary.json").read_text())["attacks"]] == ["fgsm"]
    page = Path("out/report.html").read_text()
    assert "The run was interrupted: 0 of 4 photographs were done" in page and page.count("<article ") == 1


@pytest.mark.slow("a comparison, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_a_photograph_that_becomes_unreadable_between_attacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoiling(name: str, *arguments: object) -> object:
        Path("photos/a.png").write_text("no longer a photograph")
        return attempt(name, *arguments)

    monkeypatch.setattr("percep.runs.comparison.task.attempt", spoiling)
    table = _run("compare.attacks=[fgsm,percep]", "data.workers=0").set_index("name")
    assert table.status["a"] == "unreadable: not an image of a known format" and pd.isna(table.attack["a"])
    assert list(table.attack["b"]) == list(table.attack["d"]) == ["fgsm", "percep"]
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["photographs"] == {"attacked": 2, "unreadable": 2}
    assert [line["images"] for line in summary["attacks"]] == [2, 2]
    assert "interrupted" not in capsys.readouterr().out + Path("out/report.html").read_text()


@pytest.mark.usefixtures("small_model")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("compare.attacks=[percep,apgd]", "needs torchattacks: pip install"),
        ("compare.attacks=[percep,fgsm] attack.target=random", "fgsm has no targeted mode in foolbox"),
        ("compare.gradients=5", "gradients must be at least 20, got 5"),
        ("attack.target=4", "targets must be class indices in [0, 3]"),
        ("data=samples data.path=null", "labels must be class indices in [0, 3]"),
        ("attack.target=3", "no photograph is left to compare attacks on: 3 already adversarial"),
        ("data.path=broken", "no photograph is left to compare attacks on: 1 unreadable"),
    ],
)
def test_what_cannot_be_compared_is_one_line_before_any_attack(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attacked(*_: object) -> None:
        raise AssertionError("an attack was run")

    Path("broken").mkdir()
    Path("photos/c.jpg").rename("broken/c.jpg")
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    monkeypatch.setattr("percep.runs.comparison.task.attempt", attacked)
    command = ["task=compare", "data=folder", "data.path=photos", "output=out"]
    assert words in complaint(capsys, *command, *arguments.split())
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("compare.attacks=[]", "compare.attacks is empty: choose from percep, fgsm"),
        ("compare.attacks=[percep,pgd_linff]", "unknown 'pgd_linff': did you mean pgd_linf?"),
        ("compare.attacks=[ddn+8bit,cw+8bit]", "unknown 'cw+8bit'"),
        ("compare.attacks=[ddn,ddn]", "compare.attacks names ddn more than once"),
        ("compare.attacks=ddn", "compare.attacks: "),
        ("compare.gradients=0", "compare.gradients must be at least 1"),
        ("compare.floor=1", "compare.floor must lie in (0, 1), got 1"),
        ("compare.flor=0.9", "unknown key compare.flor: did you mean floor?"),
        ("ball.floor=0.9", "unknown key ball: it belongs to task=attack"),
        ("batch_size=2", "unknown key batch_size: it belongs to task=attack or task=minimal"),
        ("attack.steps=3", "unknown key attack.steps: known are target"),
        ("attack.target=-1", "attack.target must be null, random or a class index"),
    ],
)
def test_bad_input_is_one_line(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in complaint(capsys, "task=compare", *arguments.split())


@pytest.mark.multiprocess
@pytest.mark.usefixtures("small_model")
def test_several_processes_say_once_what_cannot_be_compared(capfd: pytest.CaptureFixture[str]) -> None:
    command = ("task=compare", "data=folder", "data.path=photos", "attack.target=3", "output=out")
    assert finish(start(2, *command)) == [2, 2]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("percep: ")]
    assert "no photograph is left to compare attacks on: 3 already adversarial, 1 unreadable" in line
    assert not list(Path("out").iterdir())


def _image(name: str, folder: str = "photos") -> torch.Tensor:
    image = next(iter(data.image(f"{folder}/{name}.png", PREPROCESSING))).image
    assert image is not None
    return image[None]
