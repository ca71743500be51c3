"""The command in several processes, which are forked: a torchrun without its seconds of imports."""

import multiprocessing
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from uuid import uuid4

from hydra.core.plugins import Plugins
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import percep
from percep.cli.main import main

FORK = multiprocessing.get_context("fork")
PATIENCE = 120
_NEEDED = (
    "foolbox",
    "percep.cli.execution",
    "percep.cli.tasks",
    "percep.kernels.cpu.launch",
    "percep.runs.attack.outputs",
    "percep.runs.attack.task",
    "percep.runs.comparison.outputs",
    "percep.runs.comparison.task",
    "percep.runs.engine.run",
    "percep.runs.study.outputs",
    "percep.runs.study.task",
)
_HELD: list[socket.socket] = []


def start(world: int, *arguments: str, before: Callable[[int], None] | None = None) -> list[BaseProcess]:
    """Starts the command in so many processes; `before` is called in each with its rank."""
    _import_all()
    port = _free_port()
    processes = [FORK.Process(target=_child, args=(rank, world, port, arguments, before)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def torchrun(world: int, *arguments: str, restarts: int, before: Callable[[int], None]) -> int | None:
    """The exit code of the command under the agent that `torchrun --standalone` starts, which forks its processes;
    `before` is called in each with its rank.
    """
    _import_all()
    agent = FORK.Process(target=_agent, args=(world, restarts, arguments, before))
    agent.start()
    return finish([agent])[0]


def finish(processes: list[BaseProcess]) -> list[int | None]:
    """The exit codes of processes: minus the signal for one that was killed."""
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            raise AssertionError("a process does not end")
    return [process.exitcode for process in processes]


def run(world: int, *arguments: str) -> None:
    """Runs the command in so many processes, successfully."""
    assert finish(start(world, *arguments)) == [0] * world


@contextmanager
def command_line(command: Sequence[str]) -> Iterator[tuple["subprocess.Popen[str]", Callable[[], list[int]]]]:
    """A command of a shell, whose standard streams are read, and what gives the numbers of those processes that have
    not ended of all that it starts. They are killed at the end.
    """
    mark = uuid4().hex
    root = str(Path(percep.__file__).parents[1])
    environment = {"PERCEP_STARTED_BY": mark, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    process = subprocess.Popen(command, env=os.environ | environment, **pipes)
    signal.signal(signal.SIGINT, before)

    def left() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # of another user, or one that has ended
                if mark.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    try:
        yield process, left
    finally:
        for pid in left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def die_while_writing(part: int) -> Callable[[int], None]:
    """Makes the first process kill itself halfway through writing a part, the so manyth."""

    def arm(rank: int) -> None:
        if rank:
            return
        from percep.runs.engine import checkpoints  # noqa: PLC0415

        write_table, written = checkpoints.pq.write_table, []

        def write(table: object, path: Path) -> None:
            write_table(table, path)
            written.append(path)
            if len(written) == part:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints.pq.write_table = write

    return arm


@cache
def _import_all() -> None:
    """What every process would otherwise import for itself, four seconds of a core each."""
    Plugins.instance()
    for module in _NEEDED:
        import_module(module)


def _free_port() -> int:
    """One that nobody else is given: it stays bound here, and the store of a run may listen there all the same."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _HELD.append(held)
    return held.getsockname()[1]


def _agent(world: int, restarts: int, arguments: tuple[str, ...], before: Callable[[int], None]) -> None:
    def entry() -> None:
        before(int(os.environ["RANK"]))
        if code := main(arguments):
            raise SystemExit(code)

    rendezvous = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    launched = LaunchConfig(1, 1, world, run_id=uuid4().hex, **rendezvous, max_restarts=restarts, start_method="fork")
    elastic_launch(launched, entry)()


def _child(rank: int, world: int, port: int, arguments: tuple[str, ...], before: Callable[[int], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if before is not None:
        before(rank)
    code = 130
    with suppress(KeyboardInterrupt):
        code = main(arguments)
    os._exit(code)
