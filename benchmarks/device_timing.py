"""What a device is, how fast it copies, and how long it takes for an action."""

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.timing import clock

_COPIED = 2**24


def described(device: torch.device) -> dict[str, Any]:
    """Its type; of a GPU the name, the driver and the version of CUDA."""
    if device.type != "cuda":
        return {"type": device.type}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        driver = ""
    return {"type": "cuda", "name": torch.cuda.get_device_name(device), "driver": driver, "cuda": torch.version.cuda}


def bandwidth(device: torch.device, values: int = _COPIED) -> float:
    """Bytes read and written per second by a copy of so many float32, 64 MiB by default; the best of 10."""
    source = torch.rand(values, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(times_on(lambda: target.copy_(source), device, 10))


def seconds_on(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The lower quartile; an action slower than 50 ms is not repeated so often."""
    first = times_on(action, device, 2)[-1]
    return float(np.quantile(times_on(action, device, max(5, repeats if first < 0.05 else repeats // 10)), 0.25))


def times_on(action: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call, on a GPU by CUDA events."""
    if device.type != "cuda":
        return [clock(action) for _ in range(repeats)]
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, stop in events:
        start.record()
        action()
        stop.record()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(stop) / 1e3 for start, stop in events]
