"""The inner loop against the memory's speed: `python -m benchmarks.device`, into benchmarks/results/device-*.json.

For the product with the system's matrix and its inner product, the moments with the multipliers' update, and a plain
local mean: the bytes that one pass over the image must move, the time that takes at the speed of a large copy, the time
measured, and that of torch without kernels, in rounds one after the other; quartiles of the rounds, in each of which a
time is the lower quartile of many. On a CPU for every number of threads, with what else was tried for the local mean
(`benchmarks.passes`). On a GPU by CUDA events, and attacks in images per second as well.
"""

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hydra
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from benchmarks.machine import describe
from benchmarks.passes import ways
from benchmarks.timing import clock, quartiles
from percep import Program, SSIMBall, Window
from percep.kernels import CHOICE
from percep.solvers.dual import Dual, _State
from percep.solvers.lagrangian import NormalEquations, feasible_multipliers

_CONSOLE = Console(stderr=True)
# Floats per pixel that one pass must move: v, a, b, M v; d, x, two statistics of x, R1, R2, and l1, l2 and their steps
# read and written; v, A v.
FLOATS = {"product": 4, "update": 14, "mean": 2}
_COPIED = 2**24
_CHANNELS = 3


def run(settings: DictConfig) -> dict[str, Any]:
    """Every measurement on one device."""
    torch.manual_seed(settings.seed)
    device = torch.device("cuda" if settings.device == "auto" and torch.cuda.is_available() else "cpu")
    if settings.device != "auto":
        device = torch.device(settings.device)
    rows: list[dict[str, Any]] = []
    tried: list[dict[str, Any]] = []
    for threads in settings.threads if device.type == "cpu" else [1]:
        torch.set_num_threads(threads)
        for side in settings.sides:
            rows += [{"threads": threads} | row for row in inner_loop(side, device, settings)]
            if device.type == "cpu":
                tried += [{"threads": threads, "side": side} | row for row in _tried(side, settings.repeats)]
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "machine": describe(settings.seed) | {"load": os.getloadavg()},
        "device": _described(device),
        "settings": OmegaConf.to_container(settings, resolve=True),
        "rows": rows,
        "tried": tried,
    }
    if device.type == "cuda":
        result["attacks"] = _attacks(settings, device)
    return result


def inner_loop(side: int, device: torch.device, settings: DictConfig) -> list[dict[str, Any]]:
    """Bytes, floor, time and ratio of each piece at `side x side x 3`, and the time torch takes without kernels.

    In rounds, each of which measures the copy as well: its speed differs by half from one minute to the next.
    """
    pieces = _pieces(side, device, settings)
    copies: list[float] = []
    found: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "torch_seconds": [], "ratio": []} for name in pieces
    }
    for _ in range(settings.rounds):
        copies.append(bandwidth(device))
        for name, action in pieces.items():
            seconds = _seconds(action, device, settings.repeats)
            found[name]["seconds"].append(seconds)
            with patch.dict(os.environ, {CHOICE: "torch"}):
                found[name]["torch_seconds"].append(_seconds(action, device, settings.repeats // 5))
            found[name]["ratio"].append(seconds * copies[-1] / _bytes(name, side))
    copied = float(np.median(copies))
    return [
        {
            "piece": name, "side": side, "bytes": _bytes(name, side), "copy_bytes_per_s": copied,
            "floor_s": _bytes(name, side) / copied, **{key: quartiles(values) for key, values in measured.items()},
        }
        for name, measured in found.items()
    ]  # fmt: skip


def bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a copy of 64 MiB of float32; the best of 10."""
    source = torch.rand(_COPIED, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(_times(lambda: target.copy_(source), device, 10))


def _bytes(piece: str, side: int) -> int:
    return 4 * FLOATS[piece] * _CHANNELS * side * side


def _pieces(side: int, device: torch.device, settings: DictConfig) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(settings.seed)
    coarse = torch.rand(1, _CHANNELS, side // 8, side // 8, generator=generator)
    reference = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear").to(device)
    linear = torch.randn(reference.shape, generator=generator).to(device)
    program, _ = Program(SSIMBall(reference, floor=settings.floor), linear).normalized()
    state = _State(program, feasible_multipliers(program), torch.zeros_like(linear))
    equations = NormalEquations(program, state.multipliers)
    state.delta = 1e-3 * linear
    solver = Dual()
    return {
        "product": lambda: equations.curved(linear),
        "update": lambda: state.update(solver.eta, solver.momentum),
        "mean": lambda: program.ball.window.mean(linear),
    }


def _tried(side: int, repeats: int) -> list[dict[str, Any]]:
    values = torch.randn(1, _CHANNELS, side, side)
    rows = []
    for name, way in ways(Window.gaussian()).items():
        rows.append({"way": name, "seconds": _seconds(partial(way, values), values.device, repeats)})
    return rows


def _seconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The lower quartile; an action slower than 50 ms is not repeated so often."""
    first = _times(action, device, 2)[-1]
    return float(np.quantile(_times(action, device, max(5, repeats if first < 0.05 else repeats // 10)), 0.25))


def _times(action: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    if device.type != "cuda":
        return [clock(action) for _ in range(repeats)]
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, stop in events:
        start.record()
        action()
        stop.record()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(stop) / 1e3 for start, stop in events]


def _attacks(settings: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Images per second of attacks at 224x224x3, doubling the batch until it does not fit."""
    from benchmarks.cases import Photographs  # noqa: PLC0415  loads a network
    from percep.attacks import FrankWolfe  # noqa: PLC0415

    photographs = Photographs()
    model = photographs.model.to(device)
    rows = []
    for name in ("mean", "floor"):
        attack = FrankWolfe(model, **{name: settings[name]})
        batch, fits = 0, True
        batches = iter(settings.batches)
        while fits:
            batch = next(batches, 2 * batch)
            places = torch.arange(batch) % len(photographs.images)
            images, labels = photographs.images[places].to(device), photographs.labels[places].to(device)
            try:
                attack(images, labels)
                seconds = clock(partial(attack, images, labels))  # ends with results on the host
            except torch.OutOfMemoryError:
                fits = False
            else:
                rows.append({"attack": name, "batch": batch, "images_per_s": batch / seconds})
    return rows


def _described(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"type": device.type}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return {"type": "cuda", "name": torch.cuda.get_device_name(device), "driver": driver, "cuda": torch.version.cuda}


@hydra.main(version_base="1.3", config_path="conf", config_name="device")
def main(settings: DictConfig) -> None:
    """Runs and writes the JSON, one for each kind of device."""
    result = run(settings)
    path = Path(settings.output) / f"device-{result['device']['type']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        _CONSOLE.print({key: row[key] for key in ("threads", "piece", "side", "seconds", "ratio")}, markup=False)
    _CONSOLE.print(str(path), markup=False)


if __name__ == "__main__":
    main()
