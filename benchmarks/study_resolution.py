"""What coarser attributions and curves change in a study: `python -m benchmarks.study_resolution`.

The study's occlusion and ablation with squares that do not overlap, its integrated gradients and its curves, each
against a finer one, on sample photographs of EfficientNet-Lite0 in a ball of mean SSIM 0.999. Results are in
`benchmarks/results/study-resolution.json`; ten minutes on one core.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import Photographs
from benchmarks.machine import describe
from percep.explain import (
    ablation_maps,
    block_means,
    confound_maps,
    curves,
    gradcam,
    integrated_gradients,
    occlusion,
    partial_spearman,
    spearman,
    ssim_maps,
)
from percep.models.inference import for_inference
from percep.study import Setting
from percep.windows import Window

_RESULT = Path(__file__).parent / "results" / "study-resolution.json"
_PHOTOGRAPHS, _BLOCK = 12, 8
_STRIDES, _NODES, _STEPS = (16, 32), (64, 16), (28, 7)
"""The finer one, then the study's."""


def main() -> None:
    """Measures, and writes the JSON."""
    torch.set_num_threads(1)
    found = {"machine": describe(seed=0), "photographs": _PHOTOGRAPHS, "rows": rows()}
    _RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(report(found))


def rows() -> list[dict[str, Any]]:
    """A row per kind of map or curve."""
    photographs = Photographs()
    model = for_inference(photographs.model)
    with torch.no_grad():
        correct = torch.nonzero(model(photographs.images).argmax(1) == photographs.labels).flatten()[:_PHOTOGRAPHS]
    images, labels = photographs.images[correct], photographs.labels[correct]
    saved = Setting(None, 0.999, Window.gaussian()).attack(model)(images, labels).images
    delta = saved - images
    change = block_means((1 - ssim_maps(images, saved)).mean(1), _BLOCK)
    attention = gradcam(model, images, labels)
    confounds = {name: block_means(maps, _BLOCK) for name, maps in confound_maps(images).items()}

    def compared(name: str, other: Tensor, maps: Sequence[Tensor]) -> dict[str, Any]:
        finer, coarser = (block_means(values, _BLOCK) for values in maps)
        fine, coarse = (partial_spearman(values, other, confounds).values for values in (finer, coarser))
        return {
            "what": name,
            "agreement": float(np.nanmean(spearman(finer, coarser).values)),
            "association": [float(np.nanmean(values)) for values in (fine, coarse)],
            "largest": float(np.nanmax(np.abs(fine - coarse))),
        }

    return [
        compared(
            f"occlusion with 1 − SSIM, stride {_both(_STRIDES)}",
            change,
            [occlusion(model, images, labels, stride=stride).maps for stride in _STRIDES],
        ),
        compared(
            f"ablation with Grad-CAM, stride {_both(_STRIDES)}",
            block_means(attention, _BLOCK),
            [ablation_maps(model, images, delta, labels, stride=stride).clamp_min(0) for stride in _STRIDES],
        ),
        compared(
            f"integrated gradients with 1 − SSIM, {_both(_NODES)} nodes",
            change,
            [integrated_gradients(model, images, labels, nodes).maps for nodes in _NODES],
        ),
        _areas(_curve_areas(model, images, delta, attention, labels)),
    ]


def _curve_areas(model: Any, images: Tensor, delta: Tensor, attention: Tensor, labels: Tensor) -> list[np.ndarray]:
    """Areas of insertion and deletion in the order of Grad-CAM, of few and of many steps."""
    found = [curves(model, images, delta, {"gradcam": attention}, labels, side=_BLOCK, steps=steps) for steps in _STEPS]
    return [torch.cat([curve.area for curve in one.values()]).numpy() for one in found]


def _areas(areas: Sequence[np.ndarray]) -> dict[str, Any]:
    fine, coarse = areas
    return {
        "what": f"area of curves in the order of Grad-CAM, {_both(_STEPS)} steps",
        "agreement": float(np.corrcoef(fine, coarse)[0, 1]),
        "association": [float(fine.mean()), float(coarse.mean())],
        "largest": float(np.abs(fine - coarse).max()),
    }


def _both(values: tuple[int, int]) -> str:
    return " and ".join(map(str, values))


def report(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| what | agreement of the two | mean, finer | mean, the study's | largest change |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        fine, coarse = row["association"]
        lines.append(f"| {row['what']} | {row['agreement']:.2f} | {fine:.2f} | {coarse:.2f} | {row['largest']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
