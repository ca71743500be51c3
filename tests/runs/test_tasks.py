"""What the engine does for every task: a run that is cut in any way leaves the files of one that nothing disturbed.

The tasks are the comparison, and the one of docs/extending.md, which is registered here; the attacks and the study,
which have pictures and stages beside, are held to the same in test_attack.py and test_study.py.
"""

import os
import shutil
import signal
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from percep.cli.main import main
from percep.runs import TASKS
from percep.runs.settings import store_schemas
from percep.runs.task import ResumableTask
from tests.support import brightness
from tests.support.brightness.config import BrightnessTask
from tests.support.command import complaint, enter, photograph, use_small_model
from tests.support.processes import die_while_writing, finish, run, start

PHOTOGRAPHS = 5


@dataclass(frozen=True)
class Case:
    """A task, how many parts it leaves, what it writes, and a setting that changes its results."""

    arguments: tuple[str, ...]
    parts: int
    files: tuple[str, ...]
    other: tuple[str, str]
    done: str
    """What is printed once two parts of one that was killed are merged."""

    @property
    def command(self) -> tuple[str, ...]:
        return (*self.arguments, "data=folder", "data.path=photos", "output=out")


CASES = {
    "brightness": Case(
        ("--config-dir", str(Path(brightness.__file__).parent / "conf"), "task=brightness", "batch_size=1"),
        PHOTOGRAPHS,
        ("brightness.csv",),
        ("threshold=0.6", "threshold was 0.5 and is 0.6"),
        "of 2 photographs are bright",
    ),
    "compare": Case(
        ("task=compare", "compare.attacks=[fgsm,ddn]", "compare.gradients=20"),
        2 * PHOTOGRAPHS,
        ("compare.csv", "curves.png", "report.html", "summary.json", "table.md"),
        ("compare.gradients=21", "compare.gradients was 20 and is 21"),
        f"The run was interrupted: 1 of {PHOTOGRAPHS} photographs were done",
    ),
}

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.multiprocess,
    pytest.mark.slow("runs are killed and continued, and shared by processes that meet"),
]


@contextmanager
def prepared(folder: Path) -> Iterator[None]:
    """A folder of photographs, a small network, the task of docs/extending.md, and attacks that take no time."""
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        photograph(5).save("photos/e.png")
        use_small_model(patch)
        patch.setitem(
            TASKS, "brightness", ResumableTask(BrightnessTask, "tests.support.brightness.task.BrightnessCampaign")
        )
        store_schemas()
        patch.setattr("percep.attacks.comparison.time", SimpleNamespace(perf_counter=lambda: 0.0))
        patch.setattr("percep.report.comparison.page._plots", lambda found: [])  # which have tests of their own
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[None]:
    with prepared(tmp_path):
        yield


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def undisturbed(one_thread: None, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the same photographs; not to be written to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with prepared(folder):
        run(1, *case.command)
    return folder / "out"


def same(case: Case, other: Path) -> None:
    """The outputs are those in another folder, byte for byte, and nothing is half done."""
    for name in case.files:
        assert Path("out", name).read_bytes() == (other / name).read_bytes(), name
    assert len(parts()) == len(parts(other)) == case.parts
    assert not list(Path("out").rglob(".percep-*"))


def parts(folder: Path | str = "out") -> dict[Path, int]:
    """The parts of a run and when each was written."""
    return {path: path.stat().st_mtime_ns for path in Path(folder, "parts").rglob("[0-9]*.parquet")}


def test_any_number_of_processes_gives_the_same_files(
    case: Case, undisturbed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three, and one; two continue what one has begun in the tests below."""
    run(3, *case.command)
    same(case, undisturbed)
    told = capfd.readouterr()
    assert f" {case.parts}/{case.parts} " in told.err
    assert all(line.isprintable() for line in told.err.splitlines())
    assert told.out.count("Outputs are in out") == 1
    rows = pd.read_csv(Path("out", case.files[0])).set_index("name")
    assert set(rows.index) == set("abcde")
    assert rows.status["c"] == "unreadable: not an image of a known format"


def test_a_process_killed_while_it_writes_loses_nothing_finished(case: Case, undisturbed: Path) -> None:
    assert finish(start(1, *case.command, before=die_while_writing(3))) == [-signal.SIGKILL]
    before = parts()
    assert len(before) == 2 and list(Path("out/parts").rglob(".percep-*"))
    run(2, *case.command)
    assert before.items() <= parts().items()
    same(case, undisturbed)


def test_what_a_killed_run_has_finished_is_merged_on_demand(
    case: Case, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(start(1, *case.command, before=die_while_writing(3)))
    assert not Path("out", case.files[0]).exists()
    capsys.readouterr()
    assert main(["task=merge", "output=out"]) == 0
    assert case.done in capsys.readouterr().out
    done, all_of_them = (pd.read_csv(folder / case.files[0]) for folder in (Path("out"), undisturbed))
    pd.testing.assert_frame_equal(done, all_of_them[:2], check_exact=True, check_dtype=False)
    run(1, *case.command)
    same(case, undisturbed)


@pytest.mark.parametrize("world", [1, 2])
def test_an_interrupted_terminal(world: int, case: Case, undisturbed: Path) -> None:
    def slowly(rank: int) -> None:
        from percep.runs.engine.checkpoints import Checkpoints  # noqa: PLC0415

        write = Checkpoints.write

        def slow(*arguments: object, **named: object) -> object:
            rows = write(*arguments, **named)
            time.sleep(0.5)
            return rows

        Checkpoints.write = slow

    processes = start(world, *case.command, before=slowly)
    while not parts() and all(process.is_alive() for process in processes):
        time.sleep(0.02)
    for process in processes:
        os.kill(process.pid, signal.SIGINT)
    assert finish(processes) == [130] * world
    before = parts()
    assert 0 < len(before) < case.parts
    assert Path("out", case.files[0]).exists() == (world == 1)
    run(3 - world, *case.command)
    assert before.items() <= parts().items()
    same(case, undisturbed)


def test_a_changed_configuration_is_refused_with_the_difference(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    setting, difference = case.other
    finish(start(1, *case.command, before=die_while_writing(2)))
    before = parts()
    words = complaint(capsys, *case.command, setting, "data.workers=1")
    assert f"differs: {difference}: give the settings it was begun with" in words
    (task,) = [argument for argument in case.arguments if argument.startswith("task=")]
    attack = ("task=attack", "data=folder", "data.path=photos", "output=out")
    assert f"task was {task[5:]} and is attack" in complaint(capsys, *attack)
    photograph(99).save("photos/z.png")
    assert "differs: photographs was " in complaint(capsys, *case.command)
    assert parts() == before


def test_a_damaged_part_is_named(case: Case, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(undisturbed, "out")
    part = Path("out/parts/000000/000001.parquet")
    part.write_bytes(part.read_bytes()[:100])
    assert f"{part} is damaged: remove it" in complaint(capsys, "task=merge", "output=out")
    part.unlink()
    assert main(case.command) == 0
    same(case, undisturbed)


def test_several_processes_say_once_what_is_wrong(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    for settings, words in (
        (case.command[:-1], "give output=FOLDER"),
        ((*case.command[:-1], "output=photos"), "output folder photos is not empty"),
        ((*case.command, "data.path=missing"), "missing is not a folder"),
    ):
        assert finish(start(2, *settings)) == [2, 2]
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("percep: ")]
        assert words in line


@pytest.mark.parametrize("world", [1, 2])
def test_an_archive_that_is_damaged_does_not_spoil_the_others(
    world: int, case: Case, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("tars").mkdir()
    for number, names in enumerate(("ab", "de")):
        with tarfile.open(f"tars/{number}.tar", "w") as archive:
            for name in names:
                archive.add(f"photos/{name}.png", f"{name}.png")
    damaged = Path("tars/1.tar")
    damaged.write_bytes(damaged.read_bytes()[:-9000])
    assert finish(start(world, *case.arguments, "data=webdataset", "data.path=tars", "output=out")) == [2] * world
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("percep: ")]
    assert "tars/1.tar cannot be read to its end: " in line and "mend it and run the same command again" in line
    names = pd.read_csv(Path("out", case.files[0])).name
    assert list(names.unique()) in (["0/a", "0/b"], ["0/a", "0/b", "1/d"])


def test_a_task_of_ones_own_has_a_configuration_that_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    command = CASES["brightness"].command
    assert "threshold must lie in (0, 1), got 2" in complaint(capsys, *command, "threshold=2")
    assert "unknown key thresold: did you mean threshold?" in complaint(capsys, *command, "thresold=0.5")
