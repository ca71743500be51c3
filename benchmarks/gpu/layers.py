"""The differentiable layer, forward and backward."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.clock import clocked
from benchmarks.gpu.inputs import FLOOR, MEAN, Run, images, linear_terms
from benchmarks.gpu.rows import Row
from benchmarks.timing import quartiles
from percep import SSIMBallLayer

SETTINGS: dict[str, dict[str, Any]] = {
    "floor, rho 0.5": {"floor": FLOOR, "proximal": 0.5},
    "mean, rho 0.5": {"mean": MEAN, "proximal": 0.5},
}
_REPEATS = 3


def rows(run: Run) -> Iterator[Row]:
    """Seconds of a forward and of a backward pass, with gradients in the reference and in the linear term."""
    for batch in run.scale.layer_batches:
        for name in SETTINGS:
            yield attempt({"setting": name, "batch": batch}, partial(_passes, run, name, batch))


def _passes(run: Run, name: str, batch: int) -> Row:
    side = run.scale.sides[0]
    reference = images(batch, (side, side), run.device)
    linear = linear_terms(reference)
    linear = linear / linear.abs().amax((1, 2, 3), keepdim=True)
    layer = SSIMBallLayer(tol=max(1e-3, min(run.scale.tolerances)), **SETTINGS[name])
    forward, backward = [], []
    for _ in range(_REPEATS if run.scale.seconds else 1):
        leaves = [values.detach().clone().requires_grad_() for values in (reference, linear)]
        delta, seconds = clocked(partial(layer, *leaves), run.device)
        _, other = clocked(partial(torch.autograd.grad, delta, leaves, linear), run.device)
        forward.append(seconds)
        backward.append(other)
    return {"side": side, "forward_s": quartiles(forward), "backward_s": quartiles(backward)}
