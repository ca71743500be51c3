"""The command with task=minimal: what it says of a saved image, by other libraries, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from kornia.metrics import ssim
from skimage.metrics import structural_similarity

from percep import data, models
from percep.cli.main import main
from percep.report import read_image
from percep.report.common.canvas import Canvas
from tests.support.command import CLASSES, complaint, small_classifier

pytestmark = pytest.mark.usefixtures("one_thread", "elsewhere")

FRAME = 5  # scikit-image has no reflected border: inside it the windows are whole


def _run(*overrides: str, output: str = "out") -> pd.DataFrame:
    arguments = ["task=minimal", "data=folder", "data.path=photos", "attack.gradients=20", f"output={output}"]
    assert main([*arguments, *overrides]) == 0
    return pd.read_csv(f"{output}/results.csv").set_index("name", drop=False)


@pytest.mark.slow("the real network, on whole photographs")
def test_what_was_found_is_true_of_the_saved_file() -> None:
    assert main(["task=minimal", "data.limit=2", "attack.gradients=5", "output=out"]) == 0
    table = pd.read_csv("out/results.csv")
    model = models.load("efficientnet_lite0")
    assert model.preprocessing is not None
    assert list(table.success) == [True, True]
    for row, photograph in zip(table.itertuples(), data.samples(model.preprocessing).first(2), strict=True):
        reference, saved = photograph.image[None].double(), read_image(Path(f"out/adversarial/{row.name}.png"))
        values = ssim(reference, saved[None].double(), 11, eps=0)[0]
        assert row.found == row.mean_ssim == pytest.approx(float(values.mean()), abs=1e-12)
        assert row.min_ssim == pytest.approx(float(values.min()), abs=1e-9)
        _, inside = structural_similarity(
            reference[0].numpy(),
            saved.double().numpy(),
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            full=True,
        )
        crop = (slice(None), slice(FRAME, -FRAME), slice(FRAME, -FRAME))
        np.testing.assert_allclose(values.numpy()[crop], inside[crop], atol=1e-9)
        before, after = model(torch.stack([photograph.image, saved])).argmax(1).tolist()
        assert (row.label, row.predicted_before, row.predicted_after) == (before, before, after)
        assert before != after
        assert row.found < row.missed <= 1
        assert row.gradient_calls == 5


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_what_a_run_leaves_behind(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    text = Canvas.text

    def listen(page: Canvas, left: float, middle: float, words: str, **style: object) -> None:
        written.append(words)
        text(page, left, middle, words, **style)

    monkeypatch.setattr(Canvas, "text", listen)
    table = _run("batch_size=2")
    assert list(table.name) == ["a", "b", "c", "d"]
    assert table.status["c"] == "unreadable: not an image of a known format"
    assert {path.stem for path in Path("out/panels").iterdir()} == {"a", "b", "d"}
    assert {path.stem for path in Path("out/adversarial").iterdir()} == {"a", "b", "d"}
    assert Path("out/overview.png").is_file()
    assert sum(words.startswith("certified") for words in written) == 6  # of three panels and of an overview
    assert not any("asked" in words for words in written)
    assert "ball" not in Path("out/config.yaml").read_text()
    costs = 1 - table.found[table.success.eq(True)]
    quartiles = json.loads(Path("out/summary.json").read_text())["one_minus_found"]
    assert list(quartiles) == ["lower_quartile", "median", "upper_quartile"]
    np.testing.assert_allclose(list(quartiles.values()), np.quantile(costs, (0.25, 0.5, 0.75)), rtol=1e-9)
    printed = capsys.readouterr().out
    assert "3 of 3 predictions changed; no labels given, so nothing is said of accuracy; at a median 1 - SSIM of " in (
        printed
    )
    assert f"{costs.median():#.3g} in the saved files; 1 unreadable" in printed


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_the_columns_are_those_of_an_attack_and_two_more() -> None:
    table = _run("data=image", "data.path=photos/a.png")
    assert main(["data=image", "data.path=photos/a.png", "ball.mean=0.9", "output=attack"]) == 0
    attack = pd.read_csv("attack/results.csv")
    assert [name for name in table.columns if name not in ("found", "missed")] == list(attack.columns)
    assert "one_minus_found" not in Path("attack/summary.json").read_text()


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_an_unreadable_photograph_alone_has_the_same_columns() -> None:
    Path("broken").mkdir()
    Path("photos/c.jpg").rename("broken/c.jpg")
    table = _run("data.path=broken")
    other = _run("data=image", "data.path=photos/a.png", output="other")
    assert list(table.columns) == list(other.columns)
    assert json.loads(Path("out/summary.json").read_text())["one_minus_found"]["median"] is None


@pytest.mark.slow("a run of the command, with its pictures and its page")
@pytest.mark.usefixtures("small_model")
def test_the_floor_is_kept_large_where_it_is_asked_for() -> None:
    table = _run("attack.measure=floor", "pictures=0").drop(index="c")
    mean = _run("pictures=0", output="mean").drop(index="c")
    assert list(table.found) == list(table.min_ssim)
    assert list(mean.found) == list(mean.mean_ssim)
    assert table.found.median() > mean.min_ssim.median()


@pytest.mark.slow("a run of the command, with its pictures and its page")
def test_where_nothing_is_found_the_least_ssim_tried_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    firm = small_classifier()
    firm.network.head.bias[CLASSES.index("dog")] += 1000
    monkeypatch.setattr(models, "load", lambda name, **_: firm)
    table = _run("attack.target=2").drop(index="c")
    assert set(table.status) == {"not_found"} and not table.success.any()
    assert table.found.isna().all() and (table.mean_ssim == 1).all()
    assert (table.missed < 1).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("ball.floor=0.9", "unknown key ball: it belongs to task=attack or task=explain; known are task"),
        ("+ball.mean=0.9", "unknown key ball: it belongs to task=attack"),
        ("attack.steps=3", "unknown key attack.steps: known are target, measure, gradients"),
        ("attack.gradient=3", "unknown key attack.gradient: did you mean gradients?"),
        ("attack.gradients=0", "attack.gradients must be at least 1"),
        ("attack.measure=median", "attack.measure must be one of mean, floor, got 'median'"),
        ("attack.target=cat", "attack.target must be null, random or a class index"),
        ("batch_size=0", "batch_size must be at least 1"),
    ],
)
def test_bad_input_is_one_line(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in complaint(capsys, "task=minimal", *arguments.split())
