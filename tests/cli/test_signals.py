"""Signals: a run ends in order and says so, nothing is left behind, and a second signal ends it at once."""

import json
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest

import percep
from percep.cli.main import main
from percep.cli.signals import in_order
from percep.runs.engine.readers import left_to_the_parent
from tests.support.command import photograph
from tests.support.processes import FORK, PATIENCE, command_line, finish, start

ROOT = Path(percep.__file__).parents[1]

pytestmark = [
    pytest.mark.usefixtures("one_thread", "elsewhere", "small_model"),
    pytest.mark.multiprocess,
    pytest.mark.slow("a run must have begun before it is ended, and its readers be waited for"),
]

PHOTOS = ("data=folder", "data.path=photos")
ATTACK = (*PHOTOS, "ball.mean=0.6", "batch_size=1", "pictures=0", "output=out")
TASKS = {
    "attack": ATTACK,
    "minimal": (*PHOTOS, "task=minimal", "attack.gradients=8", "batch_size=1", "pictures=0", "output=out"),
    "explain": (*PHOTOS, "task=explain", "study=quick", "ball.mean=0.6", "batch_size=1", "output=out"),
    "compare": (*PHOTOS, "task=compare", "compare.attacks=[percep]", "compare.gradients=20", "output=out"),
}


@pytest.fixture(autouse=True)
def more_photographs(elsewhere: None) -> None:
    for seed, name in enumerate("efghijk", start=5):
        photograph(seed).save(f"photos/{name}.png")


def slowly(rank: int) -> None:
    """Every batch takes half a second more, and leaves a mark."""
    from percep.runs.engine.checkpoints import Checkpoints  # noqa: PLC0415

    write = Checkpoints.write

    def slower(*arguments: object, **named: object) -> object:
        rows = write(*arguments, **named)
        Path("begun").touch()
        time.sleep(0.5)
        return rows

    Checkpoints.write = slower


def begun(processes: list[BaseProcess]) -> None:
    while not Path("begun").exists() and all(process.is_alive() for process in processes):
        time.sleep(0.02)


def readers(process: BaseProcess) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    """Those of some processes that have not ended, after a moment."""
    time.sleep(0.3)
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return [
        pid for pid, path in states.items() if path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"
    ]


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    printed = capfd.readouterr().err
    assert "Traceback" not in printed
    return [line for line in printed.splitlines() if line.startswith("percep: ")]


@pytest.mark.parametrize(
    ("task", "number"),
    [
        ("attack", signal.SIGTERM),
        ("attack", signal.SIGINT),
        ("attack", signal.SIGHUP),
        ("minimal", signal.SIGTERM),
        ("explain", signal.SIGTERM),
        ("compare", signal.SIGTERM),
    ],
)
def test_a_run_ends_in_order(task: str, number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    (process,) = start(1, *TASKS[task], "data.workers=2", before=slowly)
    begun([process])
    children = readers(process)
    assert len(children) == 2
    os.kill(process.pid, number)
    sent = time.monotonic()
    assert finish([process]) == [128 + number]
    assert task != "attack" or time.monotonic() - sent < 30
    assert alive(children) == []
    (line,) = lines(capfd)
    assert line.startswith(f"percep: ended by {number.name}; what is finished is in out")
    assert "the same command with output=out continues" in line
    assert not list(Path("out").rglob(".percep-*"))
    if task in ("attack", "minimal"):
        done = pd.read_csv("out/results.csv")
        assert 0 < len(done) < 11
        assert f"interrupted: {len(done)} of 11 photographs" in Path("out/report.html").read_text()
    if task == "compare":
        done = pd.read_csv("out/compare.csv")
        assert 0 < len(done) < 11
        assert f"interrupted: {len(done)} of 11 photographs" in Path("out/report.html").read_text()


def test_several_processes_end_in_order_and_one_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    processes = start(2, *ATTACK, "data.workers=1", before=slowly)
    begun(processes)
    children = [pid for process in processes for pid in readers(process)]
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    assert finish(processes) == [143, 143]
    assert alive(children) == []
    (line,) = lines(capfd)
    assert line.startswith("percep: ended by SIGTERM")
    assert main([*ATTACK]) == 0
    assert len(pd.read_csv("out/results.csv")) == 11


def test_one_of_several_processes_is_ended_and_the_others_say_so(capfd: pytest.CaptureFixture[str]) -> None:
    processes = start(2, *ATTACK, "data.workers=1", before=slowly)
    begun(processes)
    children = [pid for process in processes for pid in readers(process)]
    os.kill(processes[1].pid, signal.SIGTERM)
    assert finish(processes) == [2, 143]
    assert alive(children) == []
    assert lines(capfd) == ["percep: another process has died: run the same command again, which continues"]
    assert len(list(Path("out").rglob("*.parquet"))) > 0


def test_a_process_that_waits_for_the_others_ends_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    def one_for_ever(rank: int) -> None:
        from percep.runs.engine.checkpoints import Checkpoints  # noqa: PLC0415
        from percep.runs.engine.distributed import Processes  # noqa: PLC0415

        gather = Processes.gather

        def waits(*arguments: object) -> object:
            Path("begun").touch()
            return gather(*arguments)

        if rank:
            Checkpoints.write = lambda *_, **named: time.sleep(600)
        else:
            Processes.gather = waits

    processes = start(2, *ATTACK, "data.workers=0", before=one_for_ever)
    begun(processes)
    time.sleep(0.3)
    os.kill(processes[0].pid, signal.SIGTERM)
    assert finish(processes[:1]) == [143]
    assert processes[1].is_alive()
    os.kill(processes[1].pid, signal.SIGTERM)
    assert finish(processes[1:]) == [143]
    (line,) = lines(capfd)
    assert line.startswith("percep: ended by SIGTERM; what is finished is in out")


def test_a_sweep_ends_with_its_run(capfd: pytest.CaptureFixture[str]) -> None:
    sweep = ("-m", *ATTACK[:-1], "data.limit=4", "seed=0,1", "output=sweep", "data.workers=1")
    (process,) = start(1, *sweep, before=slowly)
    begun([process])
    children = readers(process)
    os.kill(process.pid, signal.SIGTERM)
    assert finish([process]) == [143]
    assert alive(children) == []
    (line,) = lines(capfd)
    assert "sweep/0, and the same command with output=sweep continues" in line
    assert 0 < len(pd.read_csv("sweep/0/results.csv")) < 4 and not Path("sweep/1").exists()
    assert main([*sweep]) == 0
    assert [len(pd.read_csv(f"sweep/{number}/results.csv")) for number in range(2)] == [4, 4]


SCRIPT = """
import runpy, sys
sys.path.insert(0, {root!r})
from percep import models
from tests.cli.test_signals import slowly
from tests.support.command import small_classifier

models.load = lambda name, **_: small_classifier()
slowly(0)
sys.argv = ["percep", *sys.argv[1:]]
runpy.run_module("percep", run_name="__main__")
"""


def test_torchrun_that_is_ended_leaves_no_process() -> None:
    Path("script.py").write_text(SCRIPT.format(root=str(ROOT)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py"]
    with command_line([*launch, *ATTACK, "data.workers=1"]) as (torchrun, left):
        while not Path("begun").exists() and torchrun.poll() is None:
            time.sleep(0.02)
        assert len(left()) > 4
        torchrun.terminate()
        _, said = torchrun.communicate(timeout=PATIENCE)
        assert alive(left()) == []
    assert said.count("percep: ended by SIGTERM; what is finished is in out") == 1
    assert "forcefully" not in said
    assert 0 < len(list(Path("out").rglob("*.parquet"))) < 11


def while_merging(rank: int) -> None:
    from percep.runs.attack import task  # noqa: PLC0415

    def forever(_: type, folder: Path) -> None:
        Path("merging").touch()
        time.sleep(60)

    slowly(rank)
    task.AttackCampaign.merge = classmethod(forever)


def test_a_second_signal_ends_the_writing_of_a_report_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    (process,) = start(1, *ATTACK, "data.workers=1", before=while_merging)
    begun([process])
    children = readers(process)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGTERM)  # as `timeout` does: to the process, and to its group
    while not Path("merging").exists() and process.is_alive():
        time.sleep(0.02)
    time.sleep(1.2)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    assert finish([process]) == [-signal.SIGTERM]
    assert alive(children) == []


def test_readers_end_with_a_process_that_is_killed() -> None:
    (process,) = start(1, *ATTACK, "data.workers=2", before=slowly)
    begun([process])
    children = readers(process)
    assert len(children) == 2
    process.kill()
    process.join()
    assert alive(children) == []


def test_a_reader_that_dies_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    (process,) = start(1, *ATTACK, "data.workers=2", before=slowly)
    begun([process])
    children = readers(process)
    os.kill(children[0], signal.SIGKILL)
    assert finish([process]) == [2]
    assert alive(children) == []
    (line,) = lines(capfd)
    assert "a process that reads ahead has died" in line and "run the same command again" in line
    assert 0 < len(pd.read_csv("out/results.csv")) < 11


def test_merging_ends_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*ATTACK]) == 0
    capfd.readouterr()
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}

    def slow(rank: int) -> None:
        from percep.runs.attack import outputs  # noqa: PLC0415

        def write(path: Path, *_: object) -> None:
            path.touch()
            Path("begun").touch()
            time.sleep(60)

        outputs.save_summary = write

    (process,) = start(1, "task=merge", "output=out", before=slow)
    begun([process])
    os.kill(process.pid, signal.SIGTERM)
    assert finish([process]) == [143]
    assert lines(capfd) == ["percep: ended by SIGTERM"]
    assert not list(Path("out").rglob(".percep-*"))
    assert Path("out/summary.json").stat().st_mtime_ns == before[Path("out/summary.json")]


def test_what_is_handled_or_ignored_already_is_left_alone() -> None:
    """submitit bypasses SIGTERM in its jobs, nohup ignores SIGHUP, and a shell's background job SIGINT."""

    def bypass(*_: object) -> None:
        pass

    given = {signal.SIGTERM: bypass, signal.SIGHUP: signal.SIG_IGN, signal.SIGINT: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in given.items()}
    try:
        with in_order() as interruption:
            assert {number: signal.getsignal(number) for number in given} == given
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.number is None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt), in_order() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert interruption.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize("job", [False, True])
def test_a_reader_of_a_job_leaves_the_jobs_signals_to_it(job: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGUSR2 makes a process of submitit queue its job again: once is enough. SIGTERM does not end a job."""
    if job:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")

    def handlers() -> None:
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(3))
        left_to_the_parent(0)
        numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
        ignored = [signal.getsignal(number) == signal.SIG_IGN for number in numbers]
        Path("handlers.json").write_text(json.dumps(ignored))
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        os._exit(4)

    reader = FORK.Process(target=handlers)
    reader.start()
    assert finish([reader]) == [4 if job else 0]
    assert json.loads(Path("handlers.json").read_text()) == [True] * 4 + [job]
