"""Runs by several processes, and runs that are continued: the same rows as of one that nothing disturbed."""

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest

from percep.cli.main import main
from tests.support.command import complaint, enter, photograph, use_small_model
from tests.support.processes import die_while_writing, finish, run, start, torchrun

BATCHES = 6

pytestmark = [
    pytest.mark.usefixtures("one_thread", "elsewhere", "small_model"),
    pytest.mark.multiprocess,
    pytest.mark.slow("runs are killed and continued, and shared by processes that meet"),
]

ARGUMENTS = (
    "data=folder",
    "data.path=photos",
    "ball.mean=0.6",
    "attack.steps=3",
    "attack.target=random",
    "batch_size=2",
    "pictures=3",
)


def make_photographs() -> None:
    for seed, name in enumerate("efghijk", start=5):
        photograph(seed).save(f"photos/{name}.png")


@pytest.fixture(autouse=True)
def more_photographs(elsewhere: None) -> None:
    make_photographs()


@pytest.fixture(scope="module")
def undisturbed(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the same photographs; not to be written to."""
    return run_apart(tmp_path_factory.mktemp("undisturbed"), make_photographs, *ARGUMENTS)


def run_apart(folder: Path, prepare: Callable[[], None], *arguments: str) -> Path:
    """The folder of a run by one process inside another folder, in which `prepare` leaves the photographs."""
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        prepare()
        use_small_model(patch)
        run(1, *arguments, "output=out")
    return folder / "out"


def table(folder: Path | str) -> pd.DataFrame:
    return pd.read_csv(Path(folder) / "results.csv").drop(columns="seconds")


def same(folder: Path | str, other: Path | str) -> None:
    """Two folders hold the same rows and the same pictures, and nothing that is half done."""
    folder, other = Path(folder), Path(other)
    pd.testing.assert_frame_equal(table(folder), table(other), check_exact=True)
    pictures, others = (
        {path.relative_to(root) for root in [top] for path in root.rglob("*.png")} for top in (folder, other)
    )
    assert pictures == others
    for picture in pictures:
        assert (folder / picture).read_bytes() == (other / picture).read_bytes()
    first, second = (json.loads((top / "summary.json").read_text()) for top in (folder, other))
    for summary in (first, second):
        del summary["medians"]["seconds"]
    assert first == second
    assert not list(folder.rglob(".percep-*"))


def parts(folder: str) -> dict[Path, int]:
    """The parts of a run and when each was written."""
    return {path: path.stat().st_mtime_ns for path in Path(folder, "parts").rglob("[0-9]*.parquet")}


def untouched(before: dict[Path, int], folder: str) -> None:
    after = parts(folder)
    assert before.items() <= after.items()
    assert len(after) == BATCHES


@pytest.mark.parametrize("task", ["attack", "minimal"])
def test_any_number_of_processes_gives_the_same_rows(task: str) -> None:
    arguments = [*ARGUMENTS]
    if task == "minimal":
        arguments[2:4] = ["task=minimal", "attack.gradients=8"]
    for world in (1, 3):
        run(world, *arguments, f"output=out{world}", f"data.workers={world // 2}")
    rows = table("out1")
    assert list(rows.name) == list("abcdefghijk")
    assert rows.status[2].startswith("unreadable")
    same("out3", "out1")
    assert {path.stem for path in Path("out3/panels").iterdir()} == {"a", "b"}
    page = Path("out3/report.html").read_text()
    assert page.count("<article") == 2 and "Of these 11 photographs 3 are shown" in page


def test_a_random_target_is_the_photographs_own(undisturbed: Path) -> None:
    run(1, *ARGUMENTS, "seed=1", "output=other")
    run(1, *ARGUMENTS, "batch_size=11", "data.limit=5", "output=few")
    reached, other, few = (table(folder).predicted_after for folder in (undisturbed, "other", "few"))
    assert list(few) == pytest.approx(list(reached[:5]), nan_ok=True)
    assert not reached.equals(other)


def test_a_process_killed_while_it_writes_loses_nothing_finished(undisturbed: Path) -> None:
    command = (*ARGUMENTS, "output=out")
    assert finish(start(1, *command, before=die_while_writing(3))) == [-signal.SIGKILL]
    before = parts("out")
    assert len(before) == 2 and list(Path("out/parts").rglob(".percep-*"))
    run(2, *command)
    untouched(before, "out")
    same("out", undisturbed)
    run(1, *command)
    same("out", undisturbed)


def test_what_a_killed_run_has_finished_is_merged_on_demand(
    undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (*ARGUMENTS, "output=out")
    finish(start(1, *command, before=die_while_writing(3)))
    assert not Path("out/results.csv").exists()
    capsys.readouterr()
    assert main(["task=merge", "output=out"]) == 0
    assert "4 of 11 photographs were done" in capsys.readouterr().out
    pd.testing.assert_frame_equal(table("out"), table(undisturbed)[:4], check_exact=True)
    assert "The run was interrupted: 4 of 11 photographs were done." in Path("out/report.html").read_text()
    run(1, *command)
    same("out", undisturbed)


@pytest.mark.parametrize("world", [1, 2])
def test_an_interrupted_terminal(world: int, undisturbed: Path) -> None:
    command = (*ARGUMENTS, "output=out")

    def slowly(rank: int) -> None:
        from percep.runs.attack import task  # noqa: PLC0415

        work = task.AttackCampaign._records

        def slow(self: object, batch: object) -> object:
            time.sleep(0.5)
            return work(self, batch)

        task.AttackCampaign._records = slow

    processes = start(world, *command, before=slowly)
    while not parts("out") and all(process.is_alive() for process in processes):
        time.sleep(0.02)
    for process in processes:
        os.kill(process.pid, signal.SIGINT)
    assert finish(processes) == [130] * world
    before = parts("out")
    assert 0 < len(before) < BATCHES
    assert Path("out/results.csv").exists() == (world == 1)
    run(3, *command)
    untouched(before, "out")
    same("out", undisturbed)


@contextmanager
def a_small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mounts a disk of so many bytes, where mounting is allowed; yields whether it is."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = (
        shutil.which("mount") is not None and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("small", [True, False])
def test_a_full_disk(small: bool, undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A tmpfs that fills up, where mounting is allowed, and a limit that no file may exceed from the third part on."""

    def limit(rank: int) -> None:
        from percep.runs.engine import checkpoints as module  # noqa: PLC0415

        write_table, written = module.pq.write_table, []

        def write(table: object, path: Path) -> None:
            written.append(path)
            if len(written) == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            write_table(table, path)

        module.pq.write_table = write

    with a_small_disk(Path("disk"), 70_000 if small else 10**8) as is_disk:
        mounted = small and is_disk
        command = (*ARGUMENTS[:-1], "pictures=0", "output=disk/out")
        assert finish(start(1, *command, before=None if mounted else limit)) == [2]
        complaints = [line for line in capfd.readouterr().err.splitlines() if line.startswith("percep: ")]
        assert len(complaints) == 1 and ("No space left" if mounted else "too large") in complaints[0]
        before = parts("disk/out")
        assert 0 < len(before) < BATCHES
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=100m", "disk"], check=True)
        run(2, *command)
        untouched(before, "disk/out")
        pd.testing.assert_frame_equal(table("disk/out"), table(undisturbed), check_exact=True)
        assert not list(Path("disk/out").rglob(".percep-*"))


def test_a_changed_configuration_is_refused_with_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    command = (*ARGUMENTS, "output=out")
    finish(start(1, *command, before=die_while_writing(2)))
    before = parts("out")
    capsys.readouterr()
    words = complaint(capsys, *command, "seed=7", "ball.mean=0.8", "data.workers=1")
    assert "differs: ball.mean was 0.6 and is 0.8; seed was 0 and is 7: give the settings it was begun with" in words
    assert "task was attack and is minimal" in complaint(
        capsys, *(part for part in command if "ball" not in part and "steps" not in part), "task=minimal"
    )
    photograph(99).save("photos/z.png")
    assert "differs: photographs was " in complaint(capsys, *command)
    Path("photos/z.png").unlink()
    assert parts("out") == before
    assert main([*command, "data.workers=1"]) == 0


def test_other_threads_or_weights_are_other_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*ARGUMENTS, "output=out")
    assert main(command) == 0
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    capsys.readouterr()
    monkeypatch.setenv("PERCEP_KERNELS", "torch")
    words = complaint(capsys, *command)
    assert "threads (OMP_NUM_THREADS) was 1 and is 3" in words
    assert f"kernels (PERCEP_KERNELS) was numba {metadata.version('numba')} and is torch" in words
    monkeypatch.undo()


def test_before_anything_is_finished_the_configuration_may_change() -> None:
    command = (*ARGUMENTS, "output=out")
    finish(start(1, *command, before=die_while_writing(1)))
    assert main([*command, "seed=3"]) == 0
    assert "seed: 3\n" in Path("out/config.yaml").read_text()


def test_a_damaged_part_is_named(capsys: pytest.CaptureFixture[str], undisturbed: Path) -> None:
    shutil.copytree(undisturbed, "out")
    part = Path("out/parts/000000/000001.parquet")
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    assert f"{part} is damaged: remove it" in complaint(capsys, "task=merge", "output=out")
    part.unlink()
    run(1, *ARGUMENTS, "output=out")
    same("out", undisturbed)


def test_a_process_that_is_left_alone_says_so(capfd: pytest.CaptureFixture[str], undisturbed: Path) -> None:
    command = (*ARGUMENTS, "output=out")
    assert finish(start(2, *command, before=die_while_writing(2))) == [-signal.SIGKILL, 2]
    assert "percep: another process has died: run the same command again, which continues" in capfd.readouterr().err
    run(1, *command)
    same("out", undisturbed)


def test_several_processes_say_once_what_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (ARGUMENTS, "give output=FOLDER"),
        ((*ARGUMENTS, "output=photos"), "output folder photos is not empty"),
        ((*ARGUMENTS, "output=out", "data.path=missing"), "missing is not a folder"),
        ((*ARGUMENTS, "output=out", "ball.mean=1.2"), "ball.mean must lie in (0, 1)"),
    ):
        assert finish(start(2, *arguments)) == [2, 2]
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("percep: ")]
        assert words in line


def test_merging_needs_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert "output folder photos holds no run" in complaint(capsys, "task=merge", "output=photos")


def archives(folder: str, spoil: bool = False) -> None:
    Path(folder).mkdir(exist_ok=True)
    for number, names in enumerate(("abcde", "fg", "hijk")):
        with tarfile.open(f"{folder}/{number}.tar", "w") as archive:
            for name in names:
                path = Path(f"photos/{name}.{'jpg' if name == 'c' else 'png'}")
                archive.add(path, path.name)
                label = tarfile.TarInfo(f"{name}.cls")
                label.size = 1
                archive.addfile(label, io.BytesIO(b"2"))
    if spoil:
        path = Path(f"{folder}/2.tar")
        path.write_bytes(path.read_bytes()[:-9000])


ARCHIVES = ("data=webdataset", "data.path=tars", *ARGUMENTS[2:-1], "pictures=6")


@pytest.fixture(scope="module")
def undisturbed_archives(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the same archives; not to be written to."""

    def prepare() -> None:
        make_photographs()
        archives("tars")

    return run_apart(tmp_path_factory.mktemp("undisturbed_archives"), prepare, *ARCHIVES)


@pytest.mark.parametrize("world", [1, 3])
def test_archives_of_which_one_is_damaged(
    world: int, undisturbed_archives: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    archives("tars", spoil=True)
    command = (*ARCHIVES, "output=out", "data.workers=2")
    assert finish(start(world, *command)) == [2] * world
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("percep: ")]
    assert "tars/2.tar cannot be read to its end: unexpected end of data: mend it" in line
    done = pd.read_csv("out/results.csv")
    assert list(done.name[:7]) == ["0/a", "0/b", "0/c", "0/d", "0/e", "1/f", "1/g"]
    assert "The run was interrupted" in Path("out/report.html").read_text()
    before = parts("out")
    whole = Path("tars/2.tar")
    size = whole.stat().st_size
    archives("tars")
    assert whole.stat().st_size != size
    assert finish(start(world, *command)) == [2] * world  # its size has changed: these may be other photographs
    assert "photographs was" in capfd.readouterr().err
    run(world, *ARCHIVES, "output=again")
    same("again", undisturbed_archives)
    names = [*done.name[:7], "2/h", "2/i", "2/j", "2/k"]
    again = pd.read_csv("again/results.csv")
    assert list(again.name) == names and list(again.label) == [2] * 11
    assert len(before) >= 4
    assert {str(path.relative_to("again/panels")) for path in Path("again/panels").rglob("*.png")} == {
        f"{name}.png" for name in ("0/a", "0/b", "1/f", "1/g", "2/h", "2/i")
    }


def test_class_folders_in_several_processes_with_workers() -> None:
    for name, folder in zip("abdefghijk", ["ant", "bee", "cat", "dog"] * 3, strict=False):
        Path(f"classes/{folder}").mkdir(parents=True, exist_ok=True)
        shutil.copy(f"photos/{name}.png", f"classes/{folder}")
    shutil.copy("photos/c.jpg", "classes/ant")
    command = ("data=imagefolder", "data.path=classes", *ARGUMENTS[2:])
    run(1, *command, "output=out1", "data.workers=0")
    run(2, *command, "output=out2", "data.workers=1")
    same("out2", "out1")
    rows = table("out1").set_index("name")
    assert len(rows) == 11
    assert rows.status["ant/c"] == "unreadable: not an image of a known format"
    assert rows.label_name["dog/e"] == "dog"
    assert Path("out2/adversarial/dog/e.png").is_file()
    run(1, *command, "data.limit=4", "output=few", "data.workers=0")
    assert list(table("few").label_name) == ["ant", "bee", "cat", "dog"]


def test_torchrun_starts_again_what_was_killed(undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def killed_at_first(rank: int) -> None:
        again = os.environ["TORCHELASTIC_RESTART_COUNT"]
        Path(f"start{again}").touch()
        if again == "0":
            die_while_writing(2)(rank)

    assert torchrun(2, *ARGUMENTS, "output=out", restarts=1, before=killed_at_first) == 0
    told = capfd.readouterr()
    assert Path("start1").exists()
    assert " 11/11 " in told.err
    assert told.out.count("Outputs are in out") == 1
    same("out", undisturbed)
