"""The operations of the inner loop against the bytes they must move, beside other ways to compute them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib import import_module
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.device_timing import bandwidth
from benchmarks.gpu.attempts import attempt, note_of
from benchmarks.gpu.clock import timed
from benchmarks.gpu.inputs import FLOOR, MEAN, Run, images, linear_terms
from benchmarks.gpu.interpreter import rehearse
from benchmarks.gpu.rows import Row
from benchmarks.operations import Operation, floor_operations, mean_operations
from percep import kernels, windows

Way = Callable[[], AbstractContextManager[object]]
_MANTISSA = -(1 << 13)
"""Keeps of a float32 the bits that TF32 has."""


def rows(run: Run) -> Iterator[Row]:
    """A row for every operation, side, batch and way; the copy is measured again for every side and batch."""
    rehearse(run.device)
    for side in run.scale.sides:
        for batch in run.scale.batches:
            label = {"side": side, "batch": batch}
            copied = bandwidth(run.device, run.scale.copied)
            for build in (_of_floor, _of_mean):
                try:
                    operations = build(run, side, batch)
                except Exception as error:
                    yield label | {"note": note_of(error)}
                    continue
                yield from _timed(run, operations, label, copied)
                del operations
                if run.device.type == "cuda":
                    torch.cuda.empty_cache()


def _timed(run: Run, operations: Mapping[str, Operation], label: Row, copied: float) -> Iterator[Row]:
    for name, (action, floats) in operations.items():
        least = 4 * floats / copied
        for way, context in WAYS.items():
            described = label | {"operation": name, "way": way, "bytes": 4 * floats, "floor_s": least}
            yield attempt(described, partial(_measured, run, action, context, least))


def _measured(run: Run, action: Callable[[], object], context: Way, least: float) -> Row:
    with context():
        found = timed(action, run.device, run.scale.seconds)
    return {"seconds": found.seconds, "ratio": found.seconds[1] / least, "graph": found.graph}


def _of_floor(run: Run, side: int, batch: int) -> dict[str, Operation]:
    reference = images(batch, (side, side), run.device, channels=run.scale.channels)
    return floor_operations(reference, linear_terms(reference), FLOOR)


def _of_mean(run: Run, side: int, batch: int) -> dict[str, Operation]:
    reference = images(batch, (side, side), run.device, channels=run.scale.channels)
    return mean_operations(reference, linear_terms(reference), MEAN)


def _kernels() -> AbstractContextManager[object]:
    return ExitStack()


def tap_by_tap() -> AbstractContextManager[object]:
    """Triton's kernels with one weight for a whole block at a time."""
    return patch.object(import_module("percep.kernels.gpu.launch"), "TAP_BY_TAP", True)


def _torch() -> AbstractContextManager[object]:
    return patch.dict(os.environ, {kernels.CHOICE: "torch"})


def _dense(product: Callable[[Tensor, Tensor], Tensor] = torch.matmul) -> AbstractContextManager[object]:
    """Passes as matrices, which torch's code multiplies by as if every image were small."""
    stack = ExitStack()
    stack.enter_context(_torch())
    stack.enter_context(patch.object(windows, "_DENSE_SIDE", 2**20))
    stack.enter_context(patch.object(windows, "product", product))
    return stack


def in_three_parts(first: Tensor, second: Tensor) -> Tensor:
    """`first @ second` by three products in TF32: of what TF32 keeps of each, and of that with what it leaves over."""
    if first.dtype != torch.float32:
        return first @ second
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        (high, low), (other_high, other_low) = _split(first), _split(second)
        return high @ other_high + (high @ other_low + low @ other_high)
    finally:
        torch.set_float32_matmul_precision(before)


def _split(values: Tensor) -> tuple[Tensor, Tensor]:
    high = (values.contiguous().view(torch.int32) & _MANTISSA).view(torch.float32)
    return high, values - high


WAYS: dict[str, Way] = {
    "kernels": _kernels,
    "kernels, tap by tap": tap_by_tap,
    "torch": _torch,
    "dense products in float32": _dense,
    "dense products in TF32, three each": lambda: _dense(in_three_parts),
}
"""How an operation is computed."""
