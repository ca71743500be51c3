"""Every kernel against torch on the same device: rows with the largest difference and what is allowed of it."""

import itertools
import os
import time
from collections.abc import Iterator
from importlib import import_module
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.attempts import described_error
from benchmarks.gpu.inputs import Run, images, linear_terms
from benchmarks.gpu.interpreter import rehearse
from benchmarks.gpu.rows import Row
from percep import Program, SSIMBall, Window, kernels
from percep.ball.batch import per_image
from percep.program import Multipliers
from percep.solvers.dual import _State
from percep.solvers.lagrangian import feasible_multipliers

LEVELS: dict[str, dict[str, Any]] = {
    "floor": {"floor": 0.95},
    "mean": {"mean": 0.99},
    "both": {"floor": 0.9, "mean": 0.99},
}
_LIMIT = 90.0
"""Seconds of a case, its compilations included."""


class Case(NamedTuple):
    """One window on images of one size and precision."""

    window: Window
    size: tuple[int, int]
    dtype: torch.dtype
    channels: int
    device: torch.device

    def row(self, kernel: str, error: float, allowed: float) -> Row:
        """The largest difference of a kernel's results from torch's."""
        passed = bool(error <= allowed)  # a NaN is not
        return self.label(kernel) | {"error": error, "allowed": allowed, "passed": passed}

    def label(self, kernel: str) -> Row:
        size, dtype = "x".join(map(str, self.size)), str(self.dtype).removeprefix("torch.")
        return {"kernel": kernel, "window": repr(self.window), "size": size, "dtype": dtype}


def rows(run: Run) -> Iterator[Row]:
    """The rows of every case, each in a process of its own, several at a time: most of the time is compilation."""
    rehearse(run.device)
    import_module("percep.kernels.gpu.launch")  # once, before the forks
    scale = run.scale
    # Cases that compile longest, of the most taps, first.
    windows = sorted(scale.windows, key=lambda window: -window.size)
    parts = itertools.product(windows, scale.sizes, scale.dtypes)
    yield from forked([Case(*each, scale.channels, run.device) for each in parts], scale.processes)


def forked(cases: list[Case], processes: int) -> Iterator[Row]:
    """`compared` of each case in a forked process, `processes` at a time; a row that says so where one does not end.

    The caller must not have touched the device.
    """
    context = get_context("fork")
    waiting = list(cases)
    running: dict[connection.Connection, tuple[ForkProcess, Case, float]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(target=_send, args=(waiting[0], sending))
            process.start()
            sending.close()
            running[receiving] = process, waiting.pop(0), time.perf_counter()
        ready = connection.wait(list(running), timeout=1.0)
        for receiving, (process, case, start) in list(running.items()):
            if receiving in ready:
                try:
                    yield from receiving.recv()
                except EOFError:
                    process.join()
                    yield case.label("all") | {"passed": False, "note": f"ended with exit code {process.exitcode}"}
            elif time.perf_counter() - start > _LIMIT:
                process.kill()
                yield case.label("all") | {"passed": False, "note": f"still running after {_LIMIT:.0f} s"}
            else:
                continue
            process.join()
            del running[receiving]


def _send(case: Case, sending: connection.Connection) -> None:
    found = []
    try:
        for row in compared(case):
            found.append(row)
    except Exception as error:
        found.append(case.label("all that follow") | {"passed": False, "note": described_error(error)})
    sending.send(found)


def compared(case: Case) -> Iterator[Row]:
    """Mean, adjoint, product and the multipliers' update of one case, in both kinds of pass.

    Of three images one is not active.
    """
    launch = import_module("percep.kernels.gpu.launch")
    for tap_by_tap in (False, True):
        with patch.object(launch, "TAP_BY_TAP", tap_by_tap):
            kinds = ("both",) if tap_by_tap else LEVELS
            for row in itertools.chain(_operators(case), *(_updates(case, kind) for kind in kinds)):
                yield row | {"tap_by_tap": tap_by_tap}


def _operators(case: Case) -> Iterator[Row]:
    window, size, dtype, channels, device = case
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, channels, *size, dtype=dtype, generator=generator).to(device)
    inner = torch.randn(3, channels, *window.grid(*size), dtype=dtype, generator=generator).to(device)
    active = torch.tensor([1, 0, 1], device=device)
    launch = kernels.launcher_for(values, window)
    assert launch is not None
    mean, adjoint = window.mean(values), window.adjoint(inner, *size)
    product, curvature = launch.product(values, values, inner, window, active)
    again, curvature_again = launch.product(values, values, inner, window, active)
    with patch.dict(os.environ, {kernels.CHOICE: "torch"}):
        expected_mean, expected_adjoint = window.mean(values), window.adjoint(inner, *size)
        expected = values * values + window.adjoint(inner * window.mean(values), *size)
    close = 200 * torch.finfo(dtype).eps
    yield case.row("mean", _largest(mean, expected_mean), close)
    yield case.row("adjoint", _largest(adjoint, expected_adjoint), close)
    yield case.row("product", _largest(product[[0, 2]], expected[[0, 2]]), 10 * close)
    yield case.row("product of an inactive image", _largest(product[1], 0 * product[1]) + float(curvature[1].abs()), 0)
    summed = per_image(values * product)[[0, 2]]
    relative = (curvature[[0, 2]] - summed).abs() / (0.1 + 1e-4 * summed.abs())
    yield case.row("curvature", float(relative.max()), 1.0)
    same = torch.equal(product, again) and torch.equal(curvature, curvature_again)
    yield case.row("product twice", float(not same), 0)


def _updates(case: Case, kind: str) -> Iterator[Row]:
    """Logarithms of differences of moments: where one nearly vanishes only its size is known, and it is left out."""
    window, size, dtype, channels, device = case
    reference = images(2, size, device, dtype, channels)
    linear = linear_terms(reference)
    program = Program(SSIMBall(reference, window=window, **LEVELS[kind]), linear)
    state = _State(program, feasible_multipliers(program), 0.05 * linear)
    state.acceleration = torch.tensor([1.0, 0.25], dtype=dtype, device=device).reshape(-1, 1, 1, 1)
    state.last_step = state.last_step.map(lambda values: 0.1 * torch.randn_like(values))
    exponent, repeated = 0.5 + 0.3 * state.acceleration, 0.8 * state.acceleration
    launch = kernels.launcher_for(reference, window)
    assert launch is not None
    results = state._fused_step(launch, exponent, repeated)
    with patch.dict(os.environ, {kernels.CHOICE: "torch"}):
        expected = state._step(exponent, repeated)
        violations = state.violations()
    steps, multipliers = (_largest_known(*pair, violations) for pair in zip(results, expected, strict=True))
    worst = max(steps / max(1.0, _size(expected[0])), multipliers / _size(expected[1]))
    yield case.row(f"update, {kind}", worst, 2e4 * torch.finfo(dtype).eps)


def _largest_known(actual: Multipliers, expected: Multipliers, violations: Multipliers) -> float:
    """The largest difference where the violation is known; infinite if a value is not finite."""
    worst = 0.0
    for mine, other, violation in zip(actual.present(), expected.present(), violations.present(), strict=True):
        if not bool(torch.isfinite(mine).all()):
            return float("inf")
        known = (violation > -3).expand(other.shape)
        worst = max(worst, float(((mine - other).abs() * known).max()))
    return worst


def _size(values: Multipliers) -> float:
    return max(float(each.abs().max()) for each in values.present())


def _largest(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max())
