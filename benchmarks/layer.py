"""The differentiable layer: `python -m benchmarks.layer`, into benchmarks/results/layer.json.

On one thread, in float32, after a warm-up. Three questions: what a backward pass costs beside its forward pass, over
photographs at 224x224x3; how forward and backward compare with cvxpylayers' on the lifted program, for a batch of
gray 32x32 crops; and how much memory a batch of eight photographs takes, measured in a process of its own. Times are
quartiles: over photographs in the first, over repeats in the second. cvxpylayers is timed on a single image, after
its compilation, and multiplied.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Photographs
from benchmarks.lifted_layer import LiftedLayer
from benchmarks.machine import describe
from benchmarks.memory import peak_rise, printed_alone
from benchmarks.timing import quartiles
from percep import AdjointReport, SSIMBall, SSIMBallLayer

RESULTS = Path(__file__).parent / "results" / "layer.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "floor, rho 0": {"floor": 0.95},
    "floor, rho 0.5": {"floor": 0.95, "proximal": 0.5},
    "mean, rho 0": {"mean": 0.999},
    "mean, rho 0.5": {"mean": 0.999, "proximal": 0.5},
    "both, rho 0.5": {"floor": 0.95, "mean": 0.99, "proximal": 0.5},
}
BARS = {"backward_over_forward": 1.0, "times_faster_than_cvxpylayers": 50.0, "gibibytes": 2.0}
_PHOTOGRAPHS = 10


def passes(layer: SSIMBallLayer, reference: Tensor, linear: Tensor, cotangent: Tensor) -> tuple[float, float]:
    """Seconds of a forward and of a backward pass, with gradients in the reference and in the linear term."""
    leaves = [values.detach().clone().requires_grad_() for values in (reference, linear)]
    start = time.perf_counter()
    delta = layer(*leaves)
    middle = time.perf_counter()
    torch.autograd.grad(delta, leaves, cotangent)
    return middle - start, time.perf_counter() - middle


def against_forward(photographs: Photographs, count: int) -> list[dict[str, object]]:
    """The backward pass beside the forward one, photograph by photograph."""
    rows = []
    unit = _unit(photographs.gradients)
    for name, settings in SETTINGS.items():
        reports: list[AdjointReport] = []
        layer = SSIMBallLayer(on_backward=reports.append, **settings)
        times = []
        for image in range(count):
            one, other = slice(image, image + 1), slice(image + 1, image + 2)
            times.append(passes(layer, photographs.images[one], unit[one], photographs.gradients[other]))
        ratio = quartiles([backward / forward for forward, backward in times])
        rows.append(
            {
                "setting": name,
                "photographs": count,
                "forward_s": quartiles([forward for forward, _ in times]),
                "backward_s": quartiles([backward for _, backward in times]),
                "ratio": ratio,
                "steps": [report.steps for report in reports],
                "largest_residual": max(float(report.residual.max()) for report in reports),
                "reached": ratio[1] <= BARS["backward_over_forward"],
            }
        )
    return rows


def against_cvxpylayers(photographs: Photographs, solver: str, options: dict[str, object]) -> dict[str, object]:
    """Forward and backward of sixteen gray 32x32 programs with every window."""
    pairs = [photographs.crop(32, 1, first) for first in range(16)]
    reference, linear = (torch.cat(parts).float() for parts in zip(*pairs, strict=True))
    linear = _unit(linear)
    cotangent = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    layer = SSIMBallLayer(floor=0.95, proximal=0.5)
    ours = quartiles([sum(passes(layer, reference, linear, cotangent)) for _ in range(5)])

    ball = SSIMBall(reference[:1].double(), floor=0.95)
    start = time.perf_counter()
    lifted = LiftedLayer(ball, 0.5, solver, options)
    compiled = time.perf_counter()
    leaves = [values[:1].double().requires_grad_() for values in (reference, linear)]
    delta = lifted(ball.attached(leaves[0]), leaves[1])
    solved = time.perf_counter()
    torch.autograd.grad(delta, leaves, cotangent[:1].double())
    done = time.perf_counter()
    theirs = len(reference) * (done - compiled)
    return {
        "solver": solver,
        "options": options,
        "ours_s": ours,
        "theirs_s": theirs,
        "theirs_per_image": {
            "compile_s": compiled - start,
            "forward_s": solved - compiled,
            "backward_s": done - solved,
        },
        "difference_of_delta": float((delta - layer(reference[:1], linear[:1])).norm() / delta.norm()),
        "times_faster": theirs / ours[1],
        "reached": theirs / ours[1] >= BARS["times_faster_than_cvxpylayers"],
    }


def memory(settings: dict[str, Any]) -> float:
    """Peak memory of forward and backward of eight photographs, in GiB above what the imports and the data take."""
    return printed_alone("benchmarks.layer", json.dumps(settings)) / 2**30


def _measure(settings: dict[str, Any]) -> int:
    torch.set_num_threads(1)
    photographs = Photographs()
    layer, linear = SSIMBallLayer(**settings), _unit(photographs.gradients[:8])
    return peak_rise(lambda: passes(layer, photographs.images[:8], linear, photographs.gradients[8:16]))


def _unit(gradients: Tensor) -> Tensor:
    """Each divided by its largest value, so that one rho has the same relative weight in all."""
    return gradients / gradients.abs().amax((1, 2, 3), keepdim=True)


def main() -> None:
    """Measures everything and writes it down."""
    torch.set_num_threads(1)
    photographs = Photographs()
    passes(SSIMBallLayer(mean=0.999), photographs.images[:1], photographs.gradients[:1], photographs.gradients[:1])
    gibibytes = {name: memory(settings) for name, settings in SETTINGS.items()}
    result = {
        "machine": describe(seed=0),
        "bars": BARS,
        "backward": against_forward(photographs, _PHOTOGRAPHS),
        "memory": {"gibibytes": gibibytes, "reached": max(gibibytes.values()) <= BARS["gibibytes"]},
        "cvxpylayers": [
            against_cvxpylayers(photographs, "DIFFCP", {"eps": 1e-3}),
            against_cvxpylayers(photographs, "MOREAU", {}),
        ],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(_measure(json.loads(sys.argv[1])))
    else:
        main()
