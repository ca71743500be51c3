"""The command from end to end: what a run leaves behind, and one line and exit code 2 for bad input."""

import json
import os
import pickle
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from kornia.metrics import ssim
from omegaconf import OmegaConf
from PIL import Image

import percep
from percep import data, models
from percep.attacks.comparison import ATTACK_NAMES, ROUNDING
from percep.cli.main import main
from percep.report import read_image
from percep.runs import TASKS
from percep.runs.attack import batch
from percep.runs.config import AttackTask
from percep.runs.settings import validated
from tests.support.command import CLASSES, PREPROCESSING, SIDE, complaint, small_classifier

ROOT = Path(percep.__file__).parents[1]
FLOOR = 0.98
"""Of the default ball."""


pytestmark = pytest.mark.usefixtures("elsewhere")


def _run(*overrides: str, output: str = "out") -> pd.DataFrame:
    assert main(["data=folder", "data.path=photos", "ball.mean=0.9", f"output={output}", *overrides]) == 0
    return pd.read_csv(f"{output}/results.csv").set_index("name", drop=False)


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_what_a_run_leaves_behind(capsys: pytest.CaptureFixture[str]) -> None:
    table = _run("batch_size=2")
    assert list(table.name) == ["a", "b", "c", "d"]
    assert table.status["c"] == "unreadable: not an image of a known format"
    assert table.success[["a", "b", "d"]].any()
    assert {path.stem for path in Path("out/panels").iterdir()} == {"a", "b", "d"}
    assert {path.stem for path in Path("out/adversarial").iterdir()} == {"a", "b", "d"}
    assert Path("out/overview.png").is_file()
    summary = json.loads(Path("out/summary.json").read_text())
    assert (summary["images"], summary["unreadable"], summary["seed"]) == (4, 1, 0)
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "mean: 0.9\n" in Path("out/config.yaml").read_text()
    page = Path("out/report.html").read_text()
    assert "percep data=folder data.path=photos ball.mean=0.9 batch_size=2</code>" in page
    assert page.count("<article") == 3
    printed = capsys.readouterr()
    assert "1 unreadable" in printed.out
    assert "Outputs are in out" in printed.out
    assert "4/4" in printed.err


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_the_table_is_true_of_the_saved_files() -> None:
    table = _run("ball.floor=0.5", "attack.steps=3").loc[["a", "b", "d"]]
    references = torch.stack([next(iter(data.image(f"photos/{name}.png", PREPROCESSING))).image for name in table.name])
    saved = torch.stack([read_image(Path(f"out/adversarial/{name}.png")) for name in table.name])
    certificate = percep.certify(references, saved, floor=0.5, mean=0.9)
    classifier = small_classifier()
    assert list(table.predicted_before) == classifier(references).argmax(1).tolist()
    assert table.label.isna().all() and table.label_name.isna().all()  # none was given
    assert list(table.predicted_after) == classifier(saved).argmax(1).tolist()
    assert list(table.predicted_after_name) == [CLASSES[int(i)] for i in table.predicted_after]
    assert list(table.certified.astype(bool)) == certificate.within.tolist() == [True] * 3
    assert list(table.success.astype(bool)) == list(table.predicted_after != table.predicted_before)
    np.testing.assert_allclose(table.min_ssim, certificate.min_ssim, rtol=1e-12)
    np.testing.assert_allclose(table.mean_ssim, certificate.mean_ssim, rtol=1e-12)
    change = (saved.double() - references.double()).flatten(1)
    np.testing.assert_allclose(table.l2, change.norm(dim=1), rtol=1e-6)
    np.testing.assert_allclose(table.linf, change.abs().amax(1), rtol=1e-6)
    for row, reference, image in zip(table.itertuples(), references.double(), saved.double(), strict=True):
        values = ssim(reference[None], image[None], 11, eps=0)[0].amin(0)
        place = int(row.worst_row), int(row.worst_column)
        assert float(values[place]) == pytest.approx(row.min_ssim, abs=1e-9)
        rows, columns = (slice(max(middle - 5, 0), middle + 6) for middle in place)
        assert row.worst_linf == pytest.approx(float((image - reference)[:, rows, columns].abs().max()), abs=1e-9)


@pytest.mark.slow("two runs with all their pictures")
@pytest.mark.usefixtures("small_model")
def test_the_same_seed_gives_the_same_files() -> None:
    first, second = (_run("attack.target=random", output=name).drop(columns="seconds") for name in ("one", "two"))
    pd.testing.assert_frame_equal(first, second)
    pictures = sorted(path.relative_to("one") for path in Path("one").rglob("*.png"))
    assert len(pictures) == 7
    for picture in pictures:
        assert ("one" / picture).read_bytes() == ("two" / picture).read_bytes()


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_labels_from_class_folders() -> None:
    for name, subfolder in (("a", "ant"), ("b", "3")):
        Path(f"labelled/{subfolder}").mkdir(parents=True)
        Path(f"photos/{name}.png").rename(f"labelled/{subfolder}/{name}.png")
    Path("photos/c.jpg").rename("labelled/3/c.jpg")
    table = _run("data.path=labelled")
    assert list(table.name) == ["3_b", "3_c", "ant_a"]
    assert list(table.label_name) == ["dog", "dog", "ant"]


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_a_target_class_is_reached_or_not_said_to_be() -> None:
    table = _run("attack.target=2", "ball.mean=0.7", "attack.steps=20", "pictures=0").drop(index="c")
    assert list(table.success.astype(bool)) == list(table.predicted_after == 2)


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_one_photograph_and_a_limit() -> None:
    assert list(_run("data=image", "data.path=photos/b.png", output="single").name) == ["b"]
    assert list(_run("data.limit=1", output="limited").name) == ["a"]


@pytest.mark.slow("a run of the command, with its pictures and its page")
def test_a_model_that_answers_nan_for_one_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (SIDE, SIDE), (2, 2, 2)).save("photos/b.png")
    monkeypatch.setattr(models, "load", lambda name, **_: small_classifier(blind_below=0.1))
    table = _run()
    assert table.status["b"] == "not_finite"
    assert not table.success["b"]
    assert pd.isna(table.predicted_before["b"])
    assert pd.isna(table.label["b"])
    assert not Path("out/panels/b.png").exists()
    assert Path("out/panels/a.png").exists()
    assert table.status["a"] != "not_finite"


def test_a_model_that_answers_nan_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda name, **_: small_classifier(blind_below=2))
    assert list(_run().status.drop("c")) == ["not_finite"] * 3


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
@pytest.mark.parametrize("name", ["photos (1)", "2024_01_15", "it's a=b, [c] $d", "日本"])
def test_the_command_of_a_run_repeats_it(name: str) -> None:
    Path("photos").rename(name)
    _run(f"data.path={name}", "data.limit=2", "attack.steps=1", "pictures=0", output=f"{name} out/a,b")
    recorded = json.loads(Path(f"{name} out/a,b/run.json").read_text())
    assert recorded["settings"]["data"]["path"] == name
    _, *arguments = shlex.split(recorded["command"])
    assert main([*arguments, "output=again"]) == 0
    again = json.loads(Path("again/run.json").read_text())
    assert again["settings"] | {"output": ""} == recorded["settings"] | {"output": ""}
    assert again["command"] == recorded["command"]
    assert again["provenance"]["photographs"] == recorded["provenance"]["photographs"]


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_a_sweep_is_a_folder_per_run() -> None:
    assert main(["-m", "data=image", "data.path=photos/a.png", "ball.mean=0.9,0.95", "output=sweep"]) == 0
    for number, mean in enumerate((0.9, 0.95)):
        assert f"mean: {mean}\n" in Path(f"sweep/{number}/config.yaml").read_text()
        assert len(pd.read_csv(f"sweep/{number}/results.csv")) == 1


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_an_interrupted_run_keeps_what_was_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_panel = batch.save_panel

    def interrupt(path: Path, panel: object) -> None:
        if path.stem == "b":
            raise KeyboardInterrupt
        save_panel(path, panel)

    monkeypatch.setattr("percep.runs.attack.batch.save_panel", interrupt)
    assert main(["data=folder", "data.path=photos", "ball.mean=0.9", "output=out", "batch_size=1"]) == 130
    assert list(pd.read_csv("out/results.csv").name) == ["a"]
    assert "The run was interrupted: 1 of 4 photographs" in Path("out/report.html").read_text()
    capsys.readouterr()
    assert main(["task=merge", "output=out"]) == 0
    assert "The run was interrupted: 1 of 4 photographs were done" in capsys.readouterr().out
    assert json.loads(Path("out/summary.json").read_text())["planned"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("attack.measure=mean", "unknown key attack.measure: known are target, loss, steps"),
        ("compare.floor=0.9", "unknown key compare: it belongs to task=compare; known are"),
        ("ball.flor=0.9", "unknown key ball.flor: did you mean floor?"),
        ("+ball.flor=0.9", "unknown key ball.flor"),
        ("bal.floor=0.9", "unknown key bal: did you mean ball?"),
        ("-m ball.flor=0.9,0.95", "unknown key ball.flor"),
        ("ball.floor=1.2", "ball.floor must lie in (0, 1), got 1.2"),
        ("ball.mean=0", "ball.mean must lie in (0, 1), got 0"),
        ("ball.mean=nan", "ball.mean must lie in (0, 1), got nan"),
        ("ball.mean=null ball.floor=null", "ball.floor, ball.mean or both"),
        ("task=explain ball.mean=null", "ball.floor, ball.mean or both"),
        ("ball.floor=high", "ball.floor: Value 'high'"),
        ("-m ball.floor=1.2,1.3", "ball.floor must lie in (0, 1), got 1.2"),
        ("attack.steps=0", "attack.steps must be at least 1"),
        ("attack.loss=hinge", "attack.loss must be one of margin, cross_entropy"),
        ("attack.target=cat", "attack.target must be null, random or a class index"),
        ("batch_size=0", "batch_size must be at least 1"),
        ("seed=-1", "seed must be at least 0"),
        ("data.limit=0", "data.limit must be at least 1"),
        ("task=defend", "Available options in 'task': attack"),
        (
            "model=resnet50",
            "Available options in 'model': custom efficientnet_lite0 efficientnet_lite1 efficientnet_lite2",
        ),
        ("model=timm", "model.name is missing"),
        ("model=torchvision model.name=resnet51", "close names are resnet50"),
        ("model.source=hub", "choose packaged, torchvision, timm"),
        ("model.checkpoint=photos/c.jpg", "no checkpoint"),
        ("model.checkpoint=missing.pt", "is not a file"),
        ("model.checkpoint=code.pt", "could run code"),
        ("model.checkpoint=shape.pt", "does not fit efficientnet_lite0"),
        (
            "model=mobilenet_v2",
            "another model, efficientnet_lite0 needs no download, or give a checkpoint file",
        ),
        ("device=cuda", "is not available"),
        ("device=gpu", "choose cpu, cuda or cuda:N"),
        ("data=folder", "data.path is missing"),
        ("data.path=photos", "data.path needs data=folder or data=image"),
        ("data=folder data.path=missing", "is not a folder"),
        ("data=folder data.path=empty", "holds no images"),
        ("data=folder data.path=labelled", "labels outside the model's classes: gnu"),
        ("data=image data.path=missing.png", "is not a file"),
        ("data=image data.path=photos/c.jpg", "not an image"),
        ("output=photos", "output folder photos is not empty"),
        ("output=photos/c.jpg", "output folder photos/c.jpg cannot be made (File exists)"),
        ("output=photos/c.jpg/out", "cannot be made (Not a directory)"),
        ("-m output=photos/c.jpg", "photos/c.jpg: File exists"),
        ("ball.mean=[", "grammar"),
        ("output=out\udcff", "output folder 'out\\udcff' is not UTF-8"),
    ],
)
def test_bad_input_is_one_line(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    class Code:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
            return os.mkdir, ("ran_code",)

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    Path("empty").mkdir()
    Path("labelled/gnu").mkdir(parents=True)
    Path("photos/a.png").rename("labelled/gnu/a.png")
    torch.save({"weight": torch.ones(2)}, "shape.pt")
    Path("code.pt").write_bytes(pickle.dumps(Code(), protocol=2))
    assert words in complaint(capsys, *arguments.split())
    assert not Path("ran_code").exists()


@pytest.mark.usefixtures("small_model")
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("attack.target=4", "targets must be class indices in [0, 3]"),
        ("data=samples", "labels must be class indices"),
    ],
)
def test_classes_the_model_does_not_have(override: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data=image", "data.path=photos/a.png", override]
    assert words in complaint(capsys, *(arguments if "target" in override else [override]))


def test_a_layer_the_model_does_not_have(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = small_classifier()
    classifier.layer = "missing"
    monkeypatch.setattr(models, "load", lambda name, **_: classifier)
    assert "missing" in complaint(capsys, "data=image", "data.path=photos/a.png")


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for key in (
        "model.name",
        "model.checkpoint",
        "model.layer",
        "data.path",
        "data.limit",
        "ball.floor",
        "ball.mean",
    ):
        assert key in printed
    for key in ("attack.loss", "attack.steps", "attack.target", "batch_size", "device", "seed", "output"):
        assert key in printed
    for key in ("attack.measure", "attack.gradients", "compare.attacks", "compare.gradients", "compare.floor"):
        assert key in printed
    assert "task: attack, compare, explain, info, merge, minimal" in printed
    assert all(name.removesuffix(ROUNDING) in printed for name in ATTACK_NAMES)
    assert "efficientnet_lite0, efficientnet_lite1, efficientnet_lite2, mobilenet_v2, timm, torchvision" in printed


@pytest.mark.slow("composes every configuration")
def test_the_shipped_configuration_is_valid() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = validated(compose("config"))
        for name, task in TASKS.items():
            assert type(validated(compose("config", [f"task={name}"]))) is task.config
    assert isinstance(config, AttackTask)
    assert (config.model.name, config.data.source) == ("efficientnet_lite0", "samples")
    assert (config.ball.floor, config.ball.mean) == (FLOOR, 0.999)


@pytest.mark.parametrize(
    ("overrides", "floor", "mean"),
    [
        ("", FLOOR, 0.999),
        ("ball.floor=0.9", 0.9, None),
        ("ball.mean=0.9999", None, 0.9999),
        ("ball.floor=0.9 ball.mean=0.99", 0.9, 0.99),
        ("ball.mean=null", FLOOR, None),
        ("ball.floor=null", None, 0.999),
        ("ball.floor=null ball.mean=0.99", None, 0.99),
        ("ball.floor=0.9 ball.mean=null", 0.9, None),
        ("ball={mean:0.99}", None, 0.99),
        ("ball={floor:0.9}", 0.9, None),
        ("task=explain", None, 0.999),
        ("task=explain ball.floor=0.9", 0.9, None),
        ("task=explain ball.floor=0.9 ball.mean=0.99", 0.9, 0.99),
    ],
)
def test_a_level_that_is_given_alone_holds_alone(overrides: str, floor: float | None, mean: float | None) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", [*overrides.split(), "output=out"])
    config = validated(composed)
    assert (config.ball.floor, config.ball.mean) == (floor, mean)
    # What is written down composes to the same ball again.
    resolved = OmegaConf.create(OmegaConf.to_container(composed, resolve=True))
    assert (resolved.ball.floor, resolved.ball.mean) == (floor, mean)
    assert validated(resolved) == config


def test_the_templates_are_packaged() -> None:
    """And `conf/`, by setup.py: `tests/core/test_wheel.py` looks into the wheel."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["percep"]
    packaged = {path.resolve() for pattern in patterns for path in (ROOT / "percep").glob(pattern)}
    assert packaged >= set((ROOT / "percep" / "report" / "templates").iterdir())


@pytest.mark.multiprocess
def test_the_command_in_a_process_of_its_own() -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from percep.cli.main import main; sys.exit(main())",
        "ball.floor=1.2",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == "percep: ball.floor must lie in (0, 1), got 1.2\n"
