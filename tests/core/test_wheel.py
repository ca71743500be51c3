"""The wheel, installed into an environment of its own outside the repository, where only it can be `percep`."""

import csv
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.multiprocess

ROOT = Path(__file__).parents[2]

API = """
import os, sys, torch, percep
images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
pull = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
solution = percep.solve(percep.Program(percep.SSIMBall(images, floor=0.9), linear=pull), tol=1e-2)
print(*solution.status, *percep.certify(images, images + solution.delta, floor=0.9 - 1e-6).within.tolist())
large = torch.rand(1, 1, 60, 60, generator=torch.Generator().manual_seed(2))
compiled = percep.Window.gaussian().mean(large)
os.environ["PERCEP_KERNELS"] = "torch"
means = percep.Window.gaussian().mean(large)
print("percep.kernels.cpu.launch" in sys.modules, torch.allclose(compiled, means, atol=1e-5))
print(percep.__file__)
"""


def _run(*command: str | Path, cwd: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    run = subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing an earlier build left can be in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("percep", "conf"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, which borrows every other package from the one that runs the tests.

    A folder named in a .pth file is searched, but its own .pth files are not read: an editable percep stays out.
    """
    folder = tmp_path_factory.mktemp("installed")
    binaries = folder / "env" / "bin"
    _run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python")
    _run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    site = _run(binaries / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    (Path(site.strip()) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.mark.slow("builds the wheel that the others share")
def test_the_wheel_holds_everything_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    source = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for pattern in ("percep/**/*.py", "percep/py.typed", "percep/report/templates/*")
        for path in ROOT.glob(pattern)
    }
    source |= {f"percep/{path.relative_to(ROOT).as_posix()}": path.read_bytes() for path in ROOT.glob("conf/**/*.yaml")}
    assert {name: content for name, content in packed.items() if ".dist-info/" not in name} == source
    assert packed["percep-0.1.0.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = HeaderParser().parsestr(archive.read("percep-0.1.0.dist-info/METADATA").decode())
    assert (metadata["Name"], metadata["License-Expression"]) == ("percep", "Apache-2.0")
    extras = {"architectures", "demo", "dev", "docs", "gpu", "oracle", "baselines"}
    assert extras <= set(metadata.get_all("Provides-Extra", []))
    core = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any(line.startswith(("foolbox", "efficientnet", "cvxpy", "mkdocs")) for line in core)


@pytest.mark.slow("a fresh environment imports torch and compiles what it uses")
def test_the_api(environment: Path) -> None:
    solved, compiled, file = _run(environment / "env/bin/python", "-c", API, cwd=environment).splitlines()
    assert solved == "solved solved True True"
    assert compiled == "True True"
    assert Path(file).is_relative_to(environment)


def test_help(environment: Path) -> None:
    text = _run(environment / "env/bin/percep", "--help", cwd=environment)
    assert "usage: percep [key=value ...]" in text and "task: attack" in text


def test_completion_in_bash(environment: Path) -> None:
    """What a shell does on TAB, by the functions that the command installs."""
    script = """
        PATH="$1:$PATH"; eval "$(percep -sc install=bash)"; complete -p percep
        complete_line() { COMP_LINE="$1" COMP_POINT="${#1}"; words=($1); COMP_CWORD=$((${#words[@]} - 1))
                          hydra_bash_completion; echo "${COMPREPLY[@]}"; }
        complete_line "percep task=mini"; complete_line "percep task=minimal attack.mea"
    """
    registered, *completed = _run("bash", "-c", script, "bash", environment / "env/bin", cwd=environment).splitlines()
    assert registered.endswith("-F hydra_bash_completion percep")
    assert completed == ["task=minimal", "attack.measure="]


@pytest.mark.slow("the real network, in a Python that has imported nothing yet")
def test_the_command_attacks_a_photograph(environment: Path) -> None:
    """A small one, by torch: to compile every kernel for an installed package takes half a minute, and `test_the_api`
    does one.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC).save(environment / "photo.png")
    overrides = ("data=image", "data.path=photo.png", "ball.mean=0.99", "attack.steps=3", "output=out")
    overrides += ("model.resize=96", "model.crop=96")
    _run(environment / "env/bin/percep", *overrides, cwd=environment, PERCEP_KERNELS="torch")
    (row,) = csv.DictReader((environment / "out/results.csv").open())
    assert (row["status"], row["certified"]) == ("adversarial", "True")
    assert "photo" in (environment / "out/report.html").read_text()
    assert (environment / "out/adversarial/photo.png").is_file()
