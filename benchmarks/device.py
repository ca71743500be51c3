"""The inner loop against the memory's speed: `python -m benchmarks.device`, into benchmarks/results/device-*.json.

A row for every kernel: the product with the system's matrix and its inner product, the moments with the multipliers'
update, of a floor and of a mean, and local means and adjoints, of the default window and of others. In it, the bytes
that one pass over the image must move, the time that takes at the speed of a large copy, the time measured, and that of
torch without kernels, in rounds one after the other; quartiles of the rounds, in each of which a time is the lower
quartile of many. A kernel stays if its row shows it faster than torch by more than the quartiles are apart; it is
measured for images that `percep.kernels.launcher_for` leaves to torch as well. On a CPU for every number of threads,
with what else was tried for the local mean (`benchmarks.passes`). On a GPU by CUDA events, and attacks in images per
second as well.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hydra
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from benchmarks.device_timing import bandwidth, described, seconds_on
from benchmarks.machine import describe
from benchmarks.operations import Operation, floor_operations, mean_operations, strided_operations
from benchmarks.passes import ways
from benchmarks.timing import clock, quartiles
from percep import Window, kernels
from percep.kernels import CHOICE

_CONSOLE = Console(stderr=True)
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
        "device": described(device),
        "settings": OmegaConf.to_container(settings, resolve=True),
        "rows": rows,
        "tried": tried,
    }
    if device.type == "cuda":
        result["attacks"] = _attacks(settings, device)
    return result


def inner_loop(side: int, device: torch.device, settings: DictConfig) -> list[dict[str, Any]]:
    """Bytes, floor, time and ratio of each operation at `side x side x 3`, and the time torch takes without kernels.

    In rounds, each of which measures the copy as well: its speed differs by half from one minute to the next.
    """
    operations = _operations_at(side, device, settings)
    copies: list[float] = []
    sizes = {name: 4 * operation.floats for name, operation in operations.items()}
    found: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "torch_seconds": [], "ratio": []} for name in operations
    }
    for _ in range(settings.rounds):
        copies.append(bandwidth(device))
        for name, (action, _) in operations.items():
            with patch.object(kernels, "largest_side_for_torch", lambda window: 0):
                seconds = seconds_on(action, device, settings.repeats)
            found[name]["seconds"].append(seconds)
            with patch.dict(os.environ, {CHOICE: "torch"}):
                found[name]["torch_seconds"].append(seconds_on(action, device, settings.repeats // 5))
            found[name]["ratio"].append(seconds * copies[-1] / sizes[name])
    copied = float(np.median(copies))
    return [
        {
            "piece": name, "side": side, "bytes": sizes[name], "copy_bytes_per_s": copied,
            "floor_s": sizes[name] / copied, **{key: quartiles(values) for key, values in measured.items()},
        }
        for name, measured in found.items()
    ]  # fmt: skip


def _operations_at(side: int, device: torch.device, settings: DictConfig) -> dict[str, Operation]:
    generator = torch.Generator().manual_seed(settings.seed)
    coarse = torch.rand(1, _CHANNELS, side // 8, side // 8, generator=generator)
    reference = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear").to(device)
    linear = torch.randn(reference.shape, generator=generator).to(device)
    return (
        floor_operations(reference, linear, settings.floor)
        | mean_operations(reference, linear, settings.mean)
        | strided_operations(linear)
    )


def _tried(side: int, repeats: int) -> list[dict[str, Any]]:
    values = torch.randn(1, _CHANNELS, side, side)
    rows = []
    for name, way in ways(Window.gaussian()).items():
        rows.append({"way": name, "seconds": seconds_on(partial(way, values), values.device, repeats)})
    return rows


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
