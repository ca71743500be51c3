"""An iteration of `Dual`: its CUDA graph against the eager one, and traces of both."""

from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.clock import profiled, timed_with_host
from benchmarks.gpu.inputs import FLOOR, Run, images, linear_terms
from benchmarks.gpu.rows import Row
from percep import Program, SSIMBall
from percep.solvers import Dual, box_cg, dual
from percep.solvers.dual import _Graph, _iterated, _State
from percep.solvers.lagrangian import feasible_multipliers

_WEIGHT = 0.5


def compared(run: Run) -> Iterator[Row]:
    """The graph's states against the eager ones, iteration by iteration, and the seconds of each.

    With every branch taken, as in a recording, they are to be equal bit for bit. With the branches that the host asks
    for they differ by rounding. On a CPU, which records nothing, only these two are compared.
    """
    for batch in run.scale.batches[:2]:
        yield from _compared(run, batch)


def _compared(run: Run, batch: int) -> Iterator[Row]:
    start, graph = _start(run, batch), _Graph(Dual())
    on_gpu = run.device.type == "cuda"
    asked, taken, replayed = (start.replaced([each.clone() for each in start.tensors()]) for _ in range(3))
    for iteration in range(run.scale.iterations):
        label = {"batch": batch, "iteration": iteration}
        _eager(asked)
        _every_branch(taken)
        if on_gpu:
            replayed = graph(replayed, _WEIGHT)
            equal = all(torch.equal(*pair) for pair in zip(replayed.tensors(), taken.tensors(), strict=True))
            yield label | _differences("graph, every branch taken", replayed, taken) | {"passed": equal}
        row = label | _differences("every branch taken, branches asked for", taken, asked)
        yield row | {"passed": row["largest_difference"] < 1e-3}
    actions: dict[str, Callable[[], object]] = {
        "branches asked for": partial(_eager, asked),
        "every branch taken": partial(_every_branch, taken),
    }
    if on_gpu:
        actions["graph"] = partial(graph, replayed, _WEIGHT)
    for name, action in actions.items():
        seconds = timed_with_host(action, run.device, run.scale.seconds)
        yield {"batch": batch, "compared": name, "seconds": seconds}


def traced(run: Run) -> Iterator[Row]:
    """The operations of one iteration that take longest; the traces, for chrome://tracing, lie beside the results."""
    batch = run.scale.batches[min(1, len(run.scale.batches) - 1)]
    state, graph = _start(run, batch), _Graph(Dual())
    actions: dict[str, Callable[[], object]] = {"eager": partial(_eager, state)}
    if run.device.type == "cuda":
        actions["graph"] = partial(graph, state, _WEIGHT)
    for name, action in actions.items():
        action()
        seconds = timed_with_host(action, run.device, run.scale.seconds)[1]
        found = profiled(action, seconds, run.device, run.folder / f"iteration-{name}.json")
        for operation, own, launches in found.operations:
            row = {"iteration": name, "batch": batch, "iteration_s": seconds, "operation": operation}
            yield row | {"seconds": own, "launches": launches}


def _start(run: Run, batch: int) -> _State:
    side = run.scale.sides[0]
    reference = images(batch, (side, side), run.device)
    program, _ = Program(SSIMBall(reference, floor=FLOOR), linear_terms(reference)).normalized()
    return _State(program, feasible_multipliers(program), torch.zeros_like(reference))


def _eager(state: _State) -> None:
    _iterated(Dual(), dual._RECORDED_STEPS, state, torch.full_like(state.acceleration, _WEIGHT))


def _every_branch(state: _State) -> None:
    with patch.object(box_cg, "any_set", lambda mask: True):
        _eager(state)


def _differences(name: str, first: _State, second: _State) -> Row:
    """The largest difference of any of two states' tensors, relative to the tensor's largest value."""
    worst = max(_relative(*pair) for pair in zip(first.tensors(), second.tensors(), strict=True))
    return {"compared": name, "largest_difference": worst}


def _relative(first: Tensor, second: Tensor) -> float:
    difference = float((first - second).abs().max())
    return difference / max(float(second.abs().max()), 1e-30) if difference else 0.0
