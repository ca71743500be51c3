"""Times of actions on a device, and what a profiler's trace of one says."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.device_timing import times_on
from benchmarks.timing import quartiles

_Result = TypeVar("_Result")
_CALLS = 10
_MOST = 30
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LISTED = 12


def clocked(action: Callable[[], _Result], device: torch.device) -> tuple[_Result, float]:
    """A result, and the seconds until the device has it."""
    start = time.perf_counter()
    result = action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


class Timed(NamedTuple):
    """Quartiles of the seconds of one call, and whether they are a CUDA graph's, without the host's work."""

    seconds: tuple[float, float, float]
    graph: bool


def timed_with_host(action: Callable[[], object], device: torch.device, budget: float) -> tuple[float, float, float]:
    """Quartiles of the seconds of an action, the host's work included; without a budget, of its first call."""
    _, first = clocked(action, device)
    if not budget:
        return first, first, first
    return quartiles([clocked(action, device)[1] for _ in range(_repeats(first, budget))])


def timed(action: Callable[[], object], device: torch.device, budget: float) -> Timed:
    """What an action costs the device: on a GPU several calls recorded as a CUDA graph, where it can be recorded.

    Args:
        action: called twice first, so that what is compiled and cached is so.
        device: that it runs on.
        budget: seconds to spend on it.
    """
    if device.type != "cuda":
        return Timed(timed_with_host(action, device, budget), False)
    first = times_on(action, device, 2)[-1]
    calls = _CALLS if first < 1e-3 else 1
    with suppress(RuntimeError):  # what reads the device from the host cannot be recorded
        replay = _graph(action, calls)
        once = times_on(replay, device, 2)[-1]
        found = times_on(replay, device, _repeats(once, budget))
        return Timed(quartiles([seconds / calls for seconds in found]), True)
    return Timed(quartiles(times_on(action, device, _repeats(first, budget))), False)


def _repeats(seconds: float, budget: float) -> int:
    return min(_MOST, max(3, int(budget / max(seconds, 1e-9))))


def _graph(action: Callable[[], object], calls: int) -> Callable[[], object]:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            action()
    return graph.replay


class Profile(NamedTuple):
    """Where the time of an action goes.

    Attributes:
        wall_s: of the action, not profiled.
        device_s: that the device worked; on a CPU, torch's operations.
        graph_s: that it worked on replayed CUDA graphs.
        launches: of kernels and copies.
        graphs: that were replayed.
        operations: name, seconds and launches of those that took longest.
    """

    wall_s: float
    device_s: float
    graph_s: float
    launches: int
    graphs: int
    operations: list[tuple[str, float, int]]


def profiled(action: Callable[[], object], wall: float, device: torch.device, path: Path | None = None) -> Profile:
    """Profiles one call of an action that takes `wall` seconds; keeps the trace as `path`, if there is one."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    if cuda and path is not None:
        activities.append(ProfilerActivity.CPU)
    with profile(activities=activities) as profiler:
        action()
        if cuda:
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        file = path or Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return summary(events, wall)


def summary(events: Iterable[dict[str, Any]], wall: float) -> Profile:
    """Of the events of a trace in Chrome's format, in microseconds, of something that takes `wall` seconds."""
    complete = [event for event in events if event.get("ph") == "X"]
    working = [event for event in complete if event.get("cat") in _ON_DEVICE]
    replays = {
        event["args"]["correlation"]
        for event in complete
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "GraphLaunch" in event["name"]
    }
    in_graphs = [event for event in working if event.get("args", {}).get("correlation") in replays]
    operations: dict[str, tuple[float, int]] = {}
    for event in working or _outermost(complete):
        seconds, launches = operations.get(event["name"], (0.0, 0))
        operations[event["name"]] = seconds + event["dur"] / 1e6, launches + 1
    listed = sorted(((name, *each) for name, each in operations.items()), key=lambda each: -each[1])
    return Profile(
        wall,
        sum(seconds for _, seconds, _ in listed),
        sum(event["dur"] for event in in_graphs) / 1e6,
        sum(launches for *_, launches in listed),
        len(replays),
        listed[:_LISTED],
    )


def _outermost(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Torch's operations that are not part of another one, on their thread."""
    found: list[dict[str, Any]] = []
    ends: dict[int, float] = {}
    operations = [event for event in events if event.get("cat") == "cpu_op"]
    for event in sorted(operations, key=lambda each: (each["ts"], -each["dur"])):
        thread = event["tid"]
        if event["ts"] >= ends.get(thread, float("-inf")):
            found.append(event)
            ends[thread] = event["ts"] + event["dur"]
    return found
