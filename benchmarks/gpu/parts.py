"""The parts of a run in their order, and what one does in its process: it writes its rows as they come."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu import agreement, attacks, device_facts, inner_loop, iteration, layers, solves
from benchmarks.gpu.inputs import Run
from benchmarks.gpu.rows import Row

_SPENT = 0.85
"""Share of a part's time after which it starts no further row."""


class Part(NamedTuple):
    """What it says, what it measures, and its share of the time."""

    title: str
    rows: Callable[[Run], Iterator[Row]]
    share: float


PARTS = {
    "a": Part("The device and its copy", device_facts.rows, 10),
    "b": Part("Kernels against torch", agreement.rows, 90),
    "c": Part("The CUDA graph against the eager iteration", iteration.compared, 30),
    "d": Part("The inner loop against the memory", inner_loop.rows, 120),
    "e": Part("Solves", solves.rows, 110),
    "f": Part("The layer, forward and backward", layers.rows, 35),
    "g": Part("Attacks against projected gradient descent", attacks.rows, 60),
    "h": Part("One iteration, traced", iteration.traced, 25),
}


def path_of(folder: Path, letter: str) -> Path:
    """The file of a part's results."""
    return folder / f"{letter}.json"


def measure(letter: str, run: Run) -> None:
    """Runs a part, rewriting its file after every row; it ends early where its time is nearly over."""
    if run.device.type == "cpu":
        torch.set_num_threads(1)
    start, part = time.perf_counter(), PARTS[letter]
    found: Row = {"part": letter, "title": part.title, "status": "running", "rows": []}
    path = path_of(run.folder, letter)
    write(path, found)
    found["status"] = "complete"
    for row in part.rows(run):
        found["rows"].append(row)
        write(path, found | {"status": "running"})
        if time.perf_counter() - start > _SPENT * run.seconds:
            found["status"] = "out of time"
            break
    write(path, found)


def write(path: Path, content: Row) -> None:
    """A JSON file that is whole at any time."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)
