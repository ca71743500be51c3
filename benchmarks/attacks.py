"""Attacks against every peer: `python -m benchmarks.attacks`, into benchmarks/results/attacks.json and attacks.png.

EfficientNet-Lite0, the correctly classified sample photographs, each image on its own and on one thread, equal
gradients. Every answer is judged as a float image, rounded to the nearest 8-bit levels, and with percep's own
rounding along its ray; and pulled back to an SSIM floor. Every figure in one run; `processes` attacks run beside
each other, so the seconds of the peers are indicative and the overhead is timed alone, first. What each attack found is
kept in `parts`: a run that was interrupted continues; remove the folder to start anew.
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


class Subjects:
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
    """One attack on every photograph; kept in `part`, so that an interrupted run goes on where it was."""
    if part.exists():
        return read(json.loads(part.read_text()))
    subjects = Subjects(most, seed)
    targets = subjects.targets if targeted else None
    found = outcomes(
        name, subjects.model, subjects.images, subjects.labels, targets, gradients, None if targeted else floor
    )
    unfinished = part.with_suffix(".unfinished")
    unfinished.write_text(json.dumps([asdict(outcome) for outcome in found]))
    unfinished.rename(part)
    return found


def overhead(subjects: Subjects, gradients: int) -> list[float]:
    """Seconds beyond the gradients over the seconds of as many gradients, quartiles over images."""
    ratios = []
    attack = MinimalPerturbation(subjects.model, gradients=gradients)
    for image in range(len(subjects.images)):
        one = slice(image, image + 1)
        x, label = subjects.images[one], subjects.labels[one]
        start = time.perf_counter()
        for _ in range(gradients):
            subjects.photographs.gradient(x, int(subjects.places[image]))
        middle = time.perf_counter()
        attack(x, label)
        ratios.append((time.perf_counter() - middle) / (middle - start) - 1)
    return list(quartiles(ratios))


def floor_attack(subjects: Subjects, floor: float, gradients: int) -> dict[str, Any]:
    """`FrankWolfe` at the floor with a third of the peers' gradients."""
    success, calls = [], []
    for image in range(len(subjects.images)):
        one = slice(image, image + 1)
        result = FrankWolfe(subjects.model, floor=floor, steps=gradients)(subjects.images[one], subjects.labels[one])
        success.append(bool(result.success[0]))
        calls.append(int(result.gradient_calls[0]))
    return {"floor": floor, "success": sum(success) / len(success), "gradient_calls": calls}


def run(settings: DictConfig) -> dict[str, Any]:
    """Everything but the files."""
    subjects = Subjects(settings.photographs, settings.seed)
    result: dict[str, Any] = {
        "machine": describe(settings.seed),
        "settings": {"gradients": settings.gradients, "photographs": len(subjects.images), "floor": settings.floor},
        "overhead": overhead(subjects, settings.timed_gradients),
        "floor_attack": floor_attack(subjects, settings.floor, settings.gradients // 3),
        "untargeted": {},
        "targeted": {},
    }
    early = {
        budget: MinimalPerturbation(subjects.model, gradients=budget)(subjects.images, subjects.labels)
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
    result["bars"] = bars.judge_attacks(result)
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
