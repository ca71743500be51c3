"""The operations of `Dual`'s inner loop as actions to be timed, and how many floats each must move at least."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from percep import Program, SSIMBall, Window
from percep.solvers.dual import Dual, _State
from percep.solvers.lagrangian import NormalEquations, feasible_multipliers

STRIDED = {
    "8 taps": Window.uniform(8),
    "8 taps, stride 4, valid": Window.uniform(8, stride=4, padding="valid"),
}
"""Windows that the CPU's kernels for any window average over."""


class Operation(NamedTuple):
    """An operation of the inner loop, and how many floats it must move at least."""

    action: Callable[[], object]
    floats: int


def floor_operations(reference: Tensor, linear: Tensor, floor: float) -> dict[str, Operation]:
    """Those of a floor over the default window, `(B, C, H, W)` both: product, update, mean and adjoint."""
    state = _state(Program(SSIMBall(reference, floor=floor), linear))
    equations = NormalEquations(state.program, state.multipliers)
    solver, window, values = Dual(), Window.gaussian(), linear.numel()
    height, width = int(linear.shape[-2]), int(linear.shape[-1])
    return {
        # v, a, b, M v.
        "product": Operation(lambda: equations.curved(linear), 4 * values),
        # d, x, two statistics of x, R1, R2, and l1, l2 and their steps read and written.
        "update": Operation(lambda: state.update(solver.eta, solver.momentum), 14 * values),
        "mean": Operation(lambda: window.mean(linear), 2 * values),
        "adjoint": Operation(lambda: window.adjoint(linear, height, width), 2 * values),
    }


def mean_operations(reference: Tensor, linear: Tensor, mean: float) -> dict[str, Operation]:
    """The update of a mean over the default window."""
    state, solver = _state(Program(SSIMBall(reference, mean=mean), linear)), Dual()
    # d and two weights; d is scaled too, which is torch's work.
    action = partial(state.update, solver.eta, solver.momentum)
    return {"update of a mean": Operation(action, 3 * linear.numel())}


def strided_operations(values: Tensor) -> dict[str, Operation]:
    """Means and adjoints over each of `STRIDED`."""
    operations = {}
    height, width = int(values.shape[-2]), int(values.shape[-1])
    for name, window in STRIDED.items():
        maps = window.mean(values)
        floats = values.numel() + maps.numel()
        operations[f"mean, {name}"] = Operation(partial(window.mean, values), floats)
        operations[f"adjoint, {name}"] = Operation(partial(window.adjoint, maps, height, width), floats)
    return operations


def _state(program: Program) -> _State:
    normalized, _ = program.normalized()
    state = _State(normalized, feasible_multipliers(normalized), torch.zeros_like(program.linear))
    state.delta = 1e-3 * program.linear
    return state
