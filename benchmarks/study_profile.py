"""Where the time of a study goes: `python -m benchmarks.study_profile photographs=DIR network=FILE`.

MobileNetV2 on the first photographs that it classifies correctly, one thread: the main variant at a mean of 0.999, and
the criteria alone at a mean of 0.9999 and a floor of 0.95. Seconds per photograph, by part of the measurement, by
Python's own profiler. Results are in `benchmarks/results/study-profile.json`; two minutes on a quiet core.
"""

import cProfile
import json
import os
import pstats
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import hydra
import torch
from omegaconf import DictConfig

from benchmarks.machine import describe
from benchmarks.study_scale import mobilenetv2
from percep.data import Labels, Photograph, folder
from percep.explain import block_means, cascade, gradcam
from percep.models import Classifier, load
from percep.models.inference import for_inference
from percep.study import Depth, Setting, measure
from percep.windows import Window

_PARTS = (
    "_attacked",
    "_controls",
    "_further_changes",
    "integrated_gradients",
    "occlusion",
    "_movement",
    "pgd_of_the_size_of",
    "optimum",
    "_regions",
    "restrict",
    "_curves",
    "forward",
)
"""Functions of the measurement; some call others of them, and `forward` is the network's."""
_FULL = Depth(8, {0.1: 1, 0.2: 3, 0.3: 1}, "random", True, 7, 16, ("pgd_l2", "pgd_linf"), 10)
_SETTINGS = {
    "mean 0.999, everything": (Setting(None, 0.999, Window.gaussian()), _FULL),
    "mean 0.9999": (Setting(None, 0.9999, Window.gaussian()), replace(_FULL, shares={0.2: 3}, full=False)),
    "floor 0.95": (Setting(0.95, None, Window.gaussian()), replace(_FULL, shares={0.2: 3}, full=False)),
}


def run(settings: DictConfig) -> dict[str, Any]:
    """A row per variant."""
    torch.set_num_threads(1)
    trained = load(**mobilenetv2(Path(settings.network)))
    photographs = list(islice(_correct(Path(settings.photographs), trained), settings.count))
    rows = []
    for name, (setting, depth) in _SETTINGS.items():
        _measured(trained, setting, depth, photographs[:1])  # compiles
        rows.append({"variant": name, **_measured(trained, setting, depth, photographs)})
    return {"machine": describe(seed=0), "load": os.getloadavg(), "photographs": len(photographs), "rows": rows}


def _correct(photographs: Path, model: Classifier) -> Iterator[Photograph]:
    assert model.preprocessing is not None
    labels = Labels.read(
        str(photographs / "images.csv"), name_column="ImageId", label_column="TrueLabel", first_class=1
    )
    for photograph in folder(str(photographs / "images"), model.preprocessing, model.class_index, labels):
        assert photograph.image is not None
        with torch.no_grad():
            if int(model(photograph.image[None]).argmax()) == photograph.label:
                yield photograph


def _measured(trained: Classifier, setting: Setting, depth: Depth, photographs: list[Photograph]) -> dict[str, Any]:
    model, generator = for_inference(trained), torch.Generator().manual_seed(0)
    twins = [for_inference(cast(Classifier, twin)) for _, twin in cascade(trained, generator, 4)] if depth.full else []
    images = torch.stack([one.image for one in photographs if one.image is not None])
    labels = torch.tensor([one.label for one in photographs])
    another = block_means(gradcam(model, images, labels), depth.block)
    names = [one.name for one in photographs]
    profiler, start = cProfile.Profile(), time.perf_counter()
    profiler.runcall(measure, model, setting, depth, names, images, labels, None, another, twins, generator)
    seconds = (time.perf_counter() - start) / len(photographs)
    found: dict[str, float] = {}
    statistics: Any = pstats.Stats(profiler)
    for (path, _, function), (_, _, _, cumulative, _) in statistics.stats.items():
        if function in _PARTS and "percep" in Path(path).parts:
            found[function] = found.get(function, 0.0) + cumulative / len(photographs)
    return {"seconds": seconds, "parts": {part: found[part] for part in _PARTS if part in found}}


def report(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| part | " + " | ".join(row["variant"] for row in found["rows"]) + " |", "|---" * 4 + "|"]
    lines.append("| all | " + " | ".join(f"{row['seconds']:.2f}" for row in found["rows"]) + " |")
    for part in _PARTS:
        cells = [f"{row['parts'][part]:.2f}" if part in row["parts"] else "" for row in found["rows"]]
        lines.append(f"| `{part}` | {' | '.join(cells)} |")
    return "\n".join(lines)


@hydra.main(version_base="1.3", config_path="conf", config_name="study_profile")
def main(settings: DictConfig) -> None:
    """Measures, and writes the JSON."""
    found = run(settings)
    (Path(settings.output) / "study-profile.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
