"""An attack of one's own: what docs/extending.md says is enough is a run with its columns, page and summary."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

from percep.attacks import FrankWolfe
from percep.cli.main import main
from percep.report import ImageRow
from percep.report.common.columns import Column, number
from percep.runs import TASKS
from percep.runs.attack.batch import Attack, BatchAttack, MeasuredBatch
from percep.runs.attack.task import AttackCampaign
from percep.runs.config import GoalConfig, PicturedTask
from percep.runs.settings import store_schemas
from percep.runs.task import ResumableTask

pytestmark = [
    pytest.mark.usefixtures("one_thread", "elsewhere", "small_model"),
    pytest.mark.slow("a whole run, with its report, and its merge"),
]

DEFAULTS = """# @package _global_
defaults:
  - /single_schema
  - _self_

task: single
attack:
  target: null
  mean: 0.5
batch_size: 2
pictures: 1
"""


@dataclass
class SingleStepConfig(GoalConfig):
    """How much of the mean SSIM the only step keeps."""

    mean: float


@dataclass
class SingleStepTask(PicturedTask):
    """task=single: one step of `FrankWolfe`."""

    attack: SingleStepConfig


@dataclass(frozen=True)
class SingleStepRow(ImageRow):
    """One image, and the sum of its absolute changes."""

    extra_columns = (Column("L1", lambda row: row.l1, number, numeric=True),)

    l1: float | None = None

    def extra_costs(self) -> dict[str, float | None]:
        return {"l1": self.l1}


class SingleStepAttack(BatchAttack[SingleStepTask]):
    """`FrankWolfe` of a single step."""

    row = SingleStepRow

    def attack_of(self, config: SingleStepTask) -> Attack:
        return FrankWolfe(self.model, mean=config.attack.mean, steps=1)

    def row_of(self, batch: MeasuredBatch, i: int) -> ImageRow:
        change = (batch.saved[i] - batch.references[i]).double().abs().sum()
        return SingleStepRow(**vars(super().row_of(batch, i)), l1=float(change))


class SingleStepCampaign(AttackCampaign[SingleStepTask]):
    """The task, of which all else is there."""

    kind = SingleStepAttack


@pytest.fixture(autouse=True)
def task(elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is registered, and its defaults are in conf/."""
    monkeypatch.setitem(TASKS, "single", ResumableTask(SingleStepTask, f"{__name__}.SingleStepCampaign"))
    store_schemas()
    Path("conf/task").mkdir(parents=True)
    Path("conf/task/single.yaml").write_text(DEFAULTS)


def test_rows_page_and_summary_have_what_its_rows_say(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--config-dir", "conf", "task=single", "data=folder", "data.path=photos", "output=out")
    assert main(arguments) == 0
    rows = pd.read_csv("out/results.csv")
    attacked = rows[~rows.status.str.startswith("unreadable")]
    assert len(rows) == 4 and len(attacked) == 3
    assert rows.l1.isna().sum() == 1 and (attacked.l1 >= attacked.l2).all()
    l1 = torch.tensor(attacked.l1[attacked.success.astype(bool)].to_numpy())
    assert len(l1) > 0
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["l1"]["median"] == pytest.approx(float(l1.quantile(0.5)))
    page = Path("out/report.html").read_text()
    assert "L1" in page and "Certified" not in page and "1 − SSIM found" not in page
    assert main(("task=merge", "output=out")) == 0
    assert json.loads(Path("out/summary.json").read_text()) == summary
