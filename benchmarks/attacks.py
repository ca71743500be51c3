"""Attacks against baselines: `python -m benchmarks.attacks`, into benchmarks/results/attacks.json and attacks.png.

EfficientNet-Lite0, the correctly classified sample photographs, each image on its own and on one thread, equal
gradients. Every result is evaluated as a float image, rounded to the nearest 8-bit levels, and with percep's own
rounding along its ray; and scaled back to an SSIM floor. All figures come from one run; `processes` attacks run in
parallel, so the seconds of the baselines are indicative, and the overhead is timed alone, first. The results of each
attack are stored in `parts`: an interrupted run continues from there; remove the folder to start anew.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import hydra
import torch
from omegaconf import DictConfig
from rich.console import Console

from benchmarks import bars
from benchmarks.cases import Photographs
from benchmarks.machine import describe
from benchmarks.timing import quartiles
from percep.attacks import FrankWolfe, MinimalPerturbation
from percep.attacks.comparison import Outcome, outcomes
from percep.report.comparison.tables import save_curves, summary, table

_CONSOLE = Console()


class Inputs:
    """The correctly classified photographs, their `places` among all, labels and random targets; and the model."""

    def __init__(self, most: int, seed: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.photographs = photographs = Photographs()
        self.model = photographs.model
        with torch.no_grad():
            logits = self.model(photographs.images[:most])
        self.places = torch.nonzero(logits.argmax(1) == photographs.labels[:most]).flatten()
        self.images, self.labels = photographs.images[self.places], photographs.labels[self.places]
        classes = logits.shape[1]
        self.targets = (self.labels + torch.randint(1, classes, self.labels.shape)) % classes


def _job(part: Path, name: str, targeted: bool, gradients: int, floor: float, most: int, seed: int) -> list[Outcome]:
    """One attack on every photograph; stored in `part`, from which an interrupted run continues."""
    if part.exists():
        return read(json.loads(part.read_text()))
    inputs = Inputs(most, seed)
    targets = inputs.targets if targeted else None
    found = outcomes(name, inputs.model, inputs.images, inputs.labels, targets, gradients, None if targeted else floor)
    unfinished = part.with_suffix(".unfinished")
    unfinished.write_text(json.dumps([asdict(outcome) for outcome in found]))
    unfinished.rename(part)
    return found


def overhead(inputs: Inputs, gradients: int) -> list[float]:
    """Seconds beyond the gradients over the seconds of as many gradients, quartiles over images."""
    ratios = []
    attack = MinimalPerturbation(inputs.model, gradients=gradients)
    for image in range(len(inputs.images)):
        one = slice(image, image + 1)
        x, label = inputs.images[one], inputs.labels[one]
        start = time.perf_counter()
        for _ in range(gradients):
            inputs.photographs.gradient(x, int(inputs.places[image]))
        middle = time.perf_counter()
        attack(x, label)
        ratios.append((time.perf_counter() - middle) / (middle - start) - 1)
    return list(quartiles(ratios))


def floor_attack(inputs: Inputs, floor: float, gradients: int) -> dict[str, Any]:
    """`FrankWolfe` at the floor with a third of the baselines' gradients."""
    success, calls = [], []
    for image in range(len(inputs.images)):
        one = slice(image, image + 1)
        result = FrankWolfe(inputs.model, floor=floor, steps=gradients)(inputs.images[one], inputs.labels[one])
        success.append(bool(result.success[0]))
        calls.append(int(result.gradient_calls[0]))
    return {"floor": floor, "success": sum(success) / len(success), "gradient_calls": calls}


def run(settings: DictConfig) -> dict[str, Any]:
    """Everything but the files."""
    inputs = Inputs(settings.photographs, settings.seed)
    result: dict[str, Any] = {
        "machine": describe(settings.seed),
        "settings": {"gradients": settings.gradients, "photographs": len(inputs.images), "floor": settings.floor},
        "overhead": overhead(inputs, settings.timed_gradients),
        "floor_attack": floor_attack(inputs, settings.floor, settings.gradients // 3),
        "untargeted": {},
        "targeted": {},
    }
    early = {
        budget: MinimalPerturbation(inputs.model, gradients=budget)(inputs.images, inputs.labels)
        for budget in settings.budgets
    }
    result["early"] = {
        str(budget): median((1 - answer.found).nan_to_num(nan=torch.inf).tolist()) for budget, answer in early.items()
    }
    parts = Path(settings.parts)
    parts.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(settings.processes, mp_context=get_context("spawn")) as pool:
        fixed = (settings.gradients, settings.floor, settings.photographs, settings.seed)
        jobs = {
            (kind, name): pool.submit(_job, parts / f"{kind}-{name}.json", name, kind == "targeted", *fixed)
            for kind in ("untargeted", "targeted")
            for name in settings[kind]
        }
        for (kind, name), job in jobs.items():
            result[kind][name] = [asdict(outcome) for outcome in job.result()]
            row = summary(job.result())
            _CONSOLE.print(f"{kind} {name}: {row['saved_cost']:.2g} saved, {row['resaved_cost']:.2g} resaved")
    result["bars"] = bars.attack_bars(result)
    return result


def read(rows: Sequence[dict[str, Any]]) -> list[Outcome]:
    """The outcomes that a result holds as dictionaries."""
    return [Outcome(**row) for row in rows]


@hydra.main(version_base="1.3", config_path="conf", config_name="attacks")
def main(settings: DictConfig) -> None:
    """Runs every attack; writes the JSON and the curves."""
    result = run(settings)
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attacks.json").write_text(json.dumps(result, indent=1) + "\n")
    found = {name: read(rows) for name, rows in result["untargeted"].items()}
    save_curves(folder / "attacks.png", found, settings.gradients)
    _CONSOLE.print(
        table([summary(rows) for rows in found.values()]), bars.table(result["bars"]), sep="\n", markup=False
    )


if __name__ == "__main__":
    main()
