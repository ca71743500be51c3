"""Solves: milliseconds per image, and the shares of kernels, of CUDA graphs and of the host."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.clock import profiled, timed_with_host
from benchmarks.gpu.inputs import FLOOR, MEAN, Run, images, linear_terms
from benchmarks.gpu.rows import Row
from percep import Program, Solution, SSIMBall, solve
from percep.solvers import Dual

LEVELS: dict[str, dict[str, Any]] = {"floor": {"floor": FLOOR}, "mean": {"mean": MEAN}}


def rows(run: Run) -> Iterator[Row]:
    """A row for every batch, level and gap, larger batches last."""
    for batch in run.scale.batches:
        for tol in run.scale.tolerances:
            for kind in LEVELS:
                yield attempt({"kind": kind, "tol": tol, "batch": batch}, partial(_solved, run, kind, tol, batch))


def _solved(run: Run, kind: str, tol: float, batch: int) -> Row:
    side = run.scale.sides[0]
    reference = images(batch, (side, side), run.device)
    linear = linear_terms(reference)
    solver = Dual(max_iterations=run.scale.solver_iterations)

    def action() -> Solution:
        return solve(Program(SSIMBall(reference, **LEVELS[kind]), linear), solver, tol)

    solution = action()
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    seconds = timed_with_host(action, run.device, 5 * run.scale.seconds)
    row = {
        "side": side,
        "ms_per_image": [1e3 * each / batch for each in seconds],
        "solved": sum(status == "solved" for status in solution.status),
        "iterations": float(solution.iterations.double().median()),
    }
    if run.device.type == "cuda":
        row["peak_images"] = torch.cuda.max_memory_allocated(run.device) / reference.nbytes
    profile = profiled(action, seconds[1], run.device)
    row |= {
        "launches": profile.launches,
        "graphs": profile.graphs,
        "device_share": profile.device_s / profile.wall_s,
        "graph_share": profile.graph_s / profile.wall_s,
        "host_share": max(0.0, 1 - profile.device_s / profile.wall_s),
    }
    return row | {"profile": profile._asdict()}
