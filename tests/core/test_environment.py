"""What a run is continued by: weights, and the code of the network, wherever it is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from percep import models
from percep.cli.main import main
from percep.environment import code_digest, import_digest
from percep.models.custom import find
from tests.support.command import complaint

BUILD = """from torch import nn

from own_layers import swish


class Act(nn.Module):
    def forward(self, x):
        return swish(x)


def build(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 5), nn.ReLU(), Act(), nn.Flatten(), nn.Linear(width * 64, 4))
"""
LAYERS = """import own_gate


def swish(x):
    return x * own_gate.gate(x)
"""
GATE = """def gate(x):
    return x.sigmoid()
"""
CALL = {"_target_": "own_build.build"}
NAMES = ("own_build", "own_layers", "own_gate")
CHANGES = {
    "module": ("own_build", "nn.ReLU()", "nn.GELU()"),
    "forward": ("own_build", "return swish(x)", "return swish(x) + 1"),
    "imported": ("own_layers", "x * own", "2 * x * own"),
    "imported by what is imported": ("own_gate", "sigmoid", "tanh"),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The files of a network; the function forgets what was imported of them, as another process does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name, content in zip(NAMES, (BUILD, LAYERS, GATE), strict=True):
        Path(f"{name}.py").write_text(content)

    def forget() -> None:
        for name in NAMES:
            sys.modules.pop(name, None)

    forget()
    yield forget
    forget()


def loaded() -> nn.Module:
    torch.manual_seed(0)
    return models.load(source="custom", network=CALL, crop=12).network


def changed(name: str) -> None:
    file, before, after = CHANGES[name]
    content = Path(f"{file}.py").read_text()
    assert before in content
    Path(f"{file}.py").write_text(content.replace(before, after))


@pytest.mark.parametrize("name", CHANGES)
def test_code_that_computes_something_else_is_another(name: str, own: Callable[[], None]) -> None:
    before = code_digest(loaded(), CALL)
    own()
    assert code_digest(loaded(), CALL) == before
    changed(name)
    own()
    assert code_digest(loaded(), CALL) != before


def test_comments_and_addresses_in_memory_do_not_count(own: Callable[[], None]) -> None:
    before = code_digest(loaded(), CALL)
    Path("own_gate.py").write_text("# Of one's own.\n\n" + GATE)
    own()
    assert code_digest(loaded(), CALL) == before

    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = lambda x: x

        def extra_repr(self) -> str:
            return f"function={self.function}"

    first, second = Holds(), Holds()
    assert repr(first) != repr(second) and code_digest(first) == code_digest(second)


@pytest.mark.slow("a fresh Python imports torch")
@pytest.mark.multiprocess
def test_another_process_with_other_threads_finds_the_same(own: Callable[[], None]) -> None:
    """Whose hashes of strings are others too."""
    before = code_digest(loaded(), CALL)
    program = (
        "from percep import models; from percep.environment import code_digest; "
        f"print(code_digest(models.load(source='custom', network={CALL}, crop=12).network, {CALL}))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == before


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_code_of_torchscript_counts() -> None:
    def scripted(activation: nn.Module) -> nn.Module:
        return torch.jit.trace(nn.Sequential(nn.Conv2d(3, 4, 3), activation), torch.zeros(1, 3, 8, 8))

    relu, again, gelu = (code_digest(scripted(kind())) for kind in (nn.ReLU, nn.ReLU, nn.GELU))
    assert relu == again != gelu


@pytest.mark.slow("a run of the command")
@pytest.mark.usefixtures("elsewhere", "one_thread")
def test_a_run_of_a_changed_network_is_not_continued(
    own: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(loaded().state_dict(), "weights.pt")
    command = ("model=custom", "model.network={_target_: own_build.build}", "model.crop=12", "output=out", "pictures=0")
    command += ("model.checkpoint=weights.pt", "data=folder", "data.path=photos", "attack.steps=1", "ball.mean=0.9")
    assert main(command) == 0
    own()
    assert main(command) == 0
    changed("module")
    own()
    capsys.readouterr()
    line = complaint(capsys, *command)
    assert "holds a run that differs: code of the network was " in line and "weights" not in line


PATH = "own_build.build"


@pytest.mark.parametrize("name", ["forward", "imported", "imported by what is imported"])
def test_the_code_behind_an_import_path_counts(name: str, own: Callable[[], None]) -> None:
    find(PATH)
    before = import_digest(PATH)
    own()
    find(PATH)
    assert import_digest(PATH) == before != import_digest("own_build.Act")
    changed(name)
    own()
    find(PATH)
    assert import_digest(PATH) != before


def test_a_path_to_what_another_module_defines_covers_both(own: Callable[[], None]) -> None:
    Path("own_build.py").write_text("import functools\n\nown = functools.partial(print, 1)\n")
    find("own_build.own")
    before = import_digest("own_build.own")
    Path("own_build.py").write_text("import functools\n\nown = functools.partial(print, 2)\n")
    own()
    find("own_build.own")
    assert import_digest("own_build.own") != before
