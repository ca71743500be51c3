"""Sweeps as jobs: submitit's local executor, and what SLURM would be told."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from command import complaint
from hydra import compose, initialize_config_dir
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

import percep
import percep.composition  # the schemas of the configuration

ROOT = Path(percep.__file__).parents[1]
COMMAND = [sys.executable, "-m", "percep", "-m", "hydra/launcher=submitit_local", "data=samples", "data.limit=2"]

pytestmark = pytest.mark.usefixtures("elsewhere")


def _launch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "batch_size=1", "pictures=0", "attack.steps=1", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_a_job_whose_two_tasks_share_its_run_and_a_job_that_fails() -> None:
    finished = _launch("ball.mean=0.999,1.5", "hydra.launcher.tasks_per_node=2", "output=sweep")
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1] == "percep: ball.mean must lie in (0, 1), got 1.5"
    assert len(pd.read_csv("sweep/0/results.csv")) == 2
    logs = [path.read_text() for path in Path("sweep/.submitit").rglob("*_log.out")]
    assert sum("Outputs are in" in log for log in logs) == 1
    assert not Path("sweep/1/run.json").exists()


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
