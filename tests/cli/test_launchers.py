"""Sweeps as jobs: submitit's local executor, and what SLURM would be told."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

import percep
import percep.cli.composition
from percep.cli.main import main
from percep.runs.config import AttackTask, Config
from tests.support.command import complaint
from tests.support.processes import command_line

ROOT = Path(percep.__file__).parents[1]
COMMAND = [sys.executable, "-m", "percep", "-m", "hydra/launcher=submitit_local", "data=samples", "data.limit=2"]
SMALL = ("batch_size=1", "pictures=0")

pytestmark = pytest.mark.usefixtures("elsewhere")


def _launch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, *SMALL, "attack.steps=1", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.multiprocess
@pytest.mark.slow("submitit starts and awaits processes, which import torch")
def test_a_job_whose_two_tasks_share_its_run_and_a_job_that_fails() -> None:
    """The configuration of both is valid; of the second the network has no such class."""
    finished = _launch("attack.target=null,1000", "hydra.launcher.tasks_per_node=2", "output=sweep")
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].startswith("percep: targets must be class indices in [0, 999]")
    assert len(pd.read_csv("sweep/0/results.csv")) == 2
    logs = [path.read_text() for path in Path("sweep/.submitit").rglob("*_log.out")]
    assert sum("Outputs are in" in log for log in logs) == 1
    assert not Path("sweep/1/results.csv").exists()


@pytest.mark.multiprocess
@pytest.mark.slow("submitit starts and awaits processes, which import torch")
def test_jobs_of_this_machine_end_with_what_waits_for_them() -> None:
    """submitit lets them go on, and has them ignore SIGTERM."""
    with command_line([*COMMAND, *SMALL, "seed=0", "output=sweep"]) as (launcher, left):
        while not list(Path("sweep").rglob("*_log.out")) and launcher.poll() is None:
            time.sleep(0.02)
        time.sleep(0.3)
        assert len(left()) >= 3  # with submitit's own for the job
        launcher.terminate()
        _, said = launcher.communicate(timeout=60)
        assert launcher.returncode == 143
        time.sleep(0.3)
        assert left() == []
    assert said.splitlines()[-1] == "percep: ended by SIGTERM"


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=submitit_local"]])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["ball.mean=0.9,1.5,2"], "run 2 of 3, ball.mean=1.5: ball.mean must lie in (0, 1), got 1.5; nothing was run"),
        (["ball.mean=0.9,0.8", "seed=3,-1"], "run 2 of 4, ball.mean=0.9 seed=-1: seed must be at least 0"),
        (["ball={mean:0.9},{floor:2}"], "run 2 of 2, ball={floor:2}: ball.floor must lie in (0, 1), got 2"),
        (["data=samples,folder"], "run 2 of 2, data=folder: data.path is missing"),
        (["ball.mean=0.9,high"], "run 2 of 2, ball.mean=high: ball.mean: Value 'high'"),
        (["model=mobilenet_v2,timm", "model.checkpoint=a (1).pt"], "run 2 of 2, model=timm: model.name is missing"),
        (
            ["model=mobilenet_v2,efficientnet_lite1", "model.checkpoint=a (1).pt"],
            "run 2 of 2, model=efficientnet_lite1: model.checkpoint=a (1).pt is given to several models, and fits one",
        ),
        (
            ["model=timm", "model.name=a,b", "model.checkpoint=x"],
            "run 2 of 2, model.name=b: model.checkpoint=x is given",
        ),
    ],
)
def test_nothing_is_run_before_all_runs_are_valid(
    settings: list[str], words: str, launcher: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in complaint(capsys, "-m", *launcher, *settings, "output=sweep")
    assert not Path("sweep").exists() and not Path("outputs").exists()


def _swept(monkeypatch: pytest.MonkeyPatch, *settings: str) -> list[Config]:
    found: list[Config] = []
    monkeypatch.setattr("percep.cli.tasks.perform", lambda config, _: found.append(config))
    assert main(["-m", *settings, "output=sweep"]) == 0
    return found


@pytest.mark.slow("a sweep composes the configuration of every run")
def test_a_sweep_over_balls(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _swept(monkeypatch, "ball={mean:0.999},{floor:0.95}")
    balls = [config.ball for config in found if isinstance(config, AttackTask)]
    assert [(ball.mean, ball.floor) for ball in balls] == [(0.999, None), (None, 0.95)]


@pytest.mark.slow("a sweep composes the configuration of every run")
def test_a_sweep_over_models_and_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _swept(monkeypatch, "model=timm", "model.name=resnet18", "model.checkpoint=a (1).pt,b.pt")
    assert [config.model.checkpoint for config in found] == ["a (1).pt", "b.pt"]
    found = _swept(monkeypatch, "model=mobilenet_v2", "model.checkpoint=a.pt", "seed=1,2")
    assert [config.seed for config in found] == [1, 2]


@pytest.mark.slow("a sweep composes the configuration of every run")
def test_a_sweep_names_its_folders_by_what_hydra_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _swept(monkeypatch, "seed=1,2", "hydra.sweep.subdir='seed ${seed}'")
    assert len(found) == 2 and {path.name for path in Path("sweep").iterdir() if path.is_dir()} == {"seed 1", "seed 2"}


def test_what_slurm_is_told(tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose(
            "config", ["hydra/launcher=slurm", "hydra.launcher.nodes=64", "output=x"], return_hydra_config=True
        )
    settings = composed.hydra.launcher
    assert settings._target_.endswith("SlurmLauncher")
    told = {name: settings[name] for name in SlurmExecutor._valid_parameters() if settings.get(name) is not None}
    script = _make_sbatch_string(command="percep", folder=tmp_path, **told | {"job_name": "percep"})
    lines = script.splitlines()
    assert "#SBATCH --nodes=64" in lines and "#SBATCH --cpus-per-task=8" in lines
    assert "#SBATCH --signal=USR2@120" in lines
    assert (settings.max_num_timeout, settings.timeout_min) == (20, 720)


def test_what_is_missing_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "srun and sbatch are not on this machine" in complaint(capsys, "-m", "hydra/launcher=slurm", "seed=0,1")
    monkeypatch.setattr("importlib.metadata.version", _missing)
    assert "pip install 'percep[slurm]'" in complaint(capsys, "-m", "hydra/launcher=slurm", "seed=0,1")


def _missing(name: str) -> str:
    from importlib.metadata import PackageNotFoundError  # noqa: PLC0415

    raise PackageNotFoundError(name)
