"""A function in a process of its own, which may crash or hang and is ended at its time."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_PRELOADED = "benchmarks.gpu.parts"
_GRACE = 10.0
COMPLETE = "complete"


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        status: "complete", "failed", "crashed" or "killed".
        seconds: that it took.
        error: the last line that it printed, unless it is complete.
    """

    status: str
    seconds: float
    error: str = ""


def run_alone(function: Callable[..., object], arguments: tuple[Any, ...], limit: float, log: Path) -> Outcome:
    """Calls a function in a new process, which gets a fresh CUDA context, and kills it with its children at the limit.

    It is forked from a process that has imported torch but never touches a device, so that none waits for imports.

    Args:
        function: importable by its name.
        arguments: of it.
        limit: in seconds.
        log: the file that takes what it prints.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    process = context.Process(target=_enter, args=(function, arguments, str(log)))
    start = time.perf_counter()
    process.start()
    try:
        process.join(limit)
        killed = process.is_alive()
    finally:
        if process.exitcode != 0:
            _kill_group(process)
        process.join(_GRACE)  # a driver that hangs may keep even a killed process
    seconds, code = time.perf_counter() - start, process.exitcode
    if killed:
        return Outcome("killed", seconds, f"still running after {limit:.0f} s; {last_line(log)}".rstrip("; "))
    if code == 0:
        return Outcome(COMPLETE, seconds)
    if code is not None and code < 0:
        return Outcome("crashed", seconds, f"{signal.Signals(-code).name}; {last_line(log)}".rstrip("; "))
    return Outcome("failed", seconds, last_line(log) or f"exit code {code}")


def last_line(log: Path) -> str:
    """Of a file; "" where it is empty or was never written."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip() if lines else ""


def _enter(function: Callable[..., object], arguments: tuple[Any, ...], log: str) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    function(*arguments)


def _kill_group(process: BaseProcess) -> None:
    """Kills a process and what it started, if any of it is left."""
    if process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
