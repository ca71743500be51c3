"""What a floor beside the mean costs, for the default ball of task=attack: `python -m benchmarks.default_ball`.

EfficientNet-Lite0 on foolbox's sample photographs, each on its own, under every ball in turn, several times over, so
that the balls share whatever else the machine does. Into benchmarks/results/default-ball.json, and printed as a table.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from percep import data, models
from percep.attacks import FrankWolfe
from percep.models import Classifier

RESULTS = Path(__file__).parent / "results" / "default-ball.json"
MEAN = 0.999
FLOORS = (None, 0.9, 0.95, 0.98, 0.99)
"""Beside the mean; None for the mean alone, which the others are compared with."""
STEPS = 10
_REPEATS = 3


def attacked(model: Classifier, image: Tensor, label: int, floor: float | None) -> dict[str, Any]:
    """One photograph `(C, H, W)` under one ball."""
    attack = FrankWolfe(model, floor=floor, mean=MEAN, steps=STEPS)
    start = time.perf_counter()
    result = attack(image[None], torch.tensor([label]))
    seconds = time.perf_counter() - start
    return {
        "floor": floor,
        "success": bool(result.success[0]),
        "min_ssim": float(result.min_ssim[0]),
        "mean_ssim": float(result.mean_ssim[0]),
        "largest_change": round(255 * float((result.images[0] - image).abs().max())),
        "gradient_calls": int(result.gradient_calls[0]),
        "seconds": [seconds],
    }


def measure(
    model: Classifier, images: Sequence[Tensor], labels: Sequence[int], repeats: int = _REPEATS
) -> list[dict[str, Any]]:
    """A row per photograph and ball; `seconds` are those of every repeat, `largest_change` is in levels of 255."""
    rows: list[dict[str, Any]] = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        attacked(model, image, label, FLOORS[-1])  # what is built on first use
        own = [{"photograph": number} | attacked(model, image, label, floor) for floor in FLOORS]
        for _ in range(repeats - 1):
            for row, floor in zip(own, FLOORS, strict=True):
                row["seconds"] += attacked(model, image, label, floor)["seconds"]
        rows += own
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line per ball: medians over photographs; `ratio` is that of their seconds to those of the mean alone."""
    alone = {row["photograph"]: median(row["seconds"]) for row in rows if row["floor"] is None}
    lines = []
    for floor in dict.fromkeys(row["floor"] for row in rows):
        own = [row for row in rows if row["floor"] == floor]
        lines.append(
            {
                "floor": floor,
                "photographs": len(own),
                "successes": sum(row["success"] for row in own),
                "least_min_ssim": min(row["min_ssim"] for row in own),
                "median_min_ssim": median(row["min_ssim"] for row in own),
                "largest_change": max(row["largest_change"] for row in own),
                "median_largest_change": median(row["largest_change"] for row in own),
                "gradient_calls": median(row["gradient_calls"] for row in own),
                "seconds": median(median(row["seconds"]) for row in own),
                "ratio": median(median(row["seconds"]) / alone[row["photograph"]] for row in own),
            }
        )
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The summary in Markdown."""
    written = [
        "| floor beside the mean | successes | least SSIM, of all and median | largest change, of all and median "
        "| gradients | seconds | against the mean alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        floor = "none" if line["floor"] is None else line["floor"]
        written.append(
            f"| {floor} | {line['successes']} of {line['photographs']} "
            f"| {line['least_min_ssim']:.3f}, {line['median_min_ssim']:.3f} "
            f"| {line['largest_change']}/255, {line['median_largest_change']:g}/255 "
            f"| {line['gradient_calls']:g} | {line['seconds']:.2f} | {line['ratio']:.2f} |"
        )
    return "\n".join(written)


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    torch.manual_seed(0)
    model = models.load("efficientnet_lite0")
    assert model.preprocessing is not None
    photographs = list(data.samples(model.preprocessing))
    images = [photograph.image for photograph in photographs if photograph.image is not None]
    labels = [int(model(image[None]).argmax()) for image in images]  # what the model says is to be left
    rows = measure(model, images, labels)
    lines = summary(rows)
    result = {"machine": describe(0), "mean": MEAN, "steps": STEPS, "rows": rows, "summary": lines}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
