"""The paper's question on the paper's network: `python -m benchmarks.study_scale photographs=DIR network=FILE`.

MobileNetV2 on every photograph that it classifies correctly, then EfficientNet-Lite0 on the same photographs, each
with the full study at a mean of 0.999 and with its criteria at a mean of 0.9999 and a floor of 0.95; then what the two
networks say of each other's perturbations. Results are in `benchmarks/results/study-scale.json`, figures in `docs`.
It takes some hours on two cores; an interrupted run is continued by the same command.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig
from PIL import Image

from benchmarks.machine import describe
from percep.data import image
from percep.explain import gradcam, ssim_maps
from percep.models import load
from percep.report.common.images import read_image
from percep.report.study.panels import chosen_photographs, panel_row, rule, save_panels
from percep.runs.study.outputs import main_variant
from percep.study import Claim, across_networks
from percep.study.evidence import FOOLED
from percep.study.photographs import association_key

NETWORKS = ("mobilenetv2", "efficientnet_lite0")
_DIGITS, _QUALITY = 4, 88
_PHOTOGRAPH = (
    "label",
    "new_class",
    "confidence",
    "pearson_dissimilarity_gradcam",
    "spearman_dissimilarity_gradcam",
    "partial_spearman_dissimilarity_gradcam",
    "gain_top",
    "gain_matched",
)
"""Of each photograph; its other numbers are means of the tables."""


def run(settings: DictConfig) -> None:
    """Both studies, from where they were left."""
    images, work = Path(settings.photographs) / "images", Path(settings.work)
    mobile, lite = (work / name for name in NETWORKS)
    _study(settings, mobile, images, _models(settings)[mobile.name])
    _study(settings, lite, _chosen(work / "photographs", images, _correct(mobile)), _models(settings)[lite.name])


def collected(settings: DictConfig) -> dict[str, Any]:
    """What is finished: the summary of each study, and the comparison of their networks."""
    folders = [folder for name in NETWORKS if (folder := Path(settings.work) / name / "summary.json").is_file()]
    studies = [main_variant(folder.parent) for folder in folders]
    networks: list[dict[str, Any]] = []
    if len(studies) == len(NETWORKS):
        (first, claim, inference), (second, _, _) = studies
        networks = [_rounded(asdict(row)) for row in across_networks(first, second, claim, inference)]
    summaries = {folder.parent.name: _summary(folder.parent) for folder in folders}
    return {
        "machine": describe(studies[0][2].seed),
        "network": hashlib.sha256(Path(settings.network).read_bytes()).hexdigest(),
        "processes": settings.processes,
        "studies": {name: {**study, "credits": _credits(settings, study)} for name, study in summaries.items()},
        "networks": networks,
    }


def mobilenetv2(weights: Path) -> dict[str, Any]:
    """The arguments of `percep.models.load`."""
    return {
        "source": "custom",
        "name": "mobilenetv2_100",
        "network": {"_target_": "timm.create_model", "model_name": "mobilenetv2_100", "pad_type": "same"},
        "checkpoint": str(weights),
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize": 224,
        "crop": 224,
        "categories": "imagenet",
    }


def _models(settings: DictConfig) -> dict[str, dict[str, Any]]:
    """By the names of the studies; the second network is the one that percep loads by itself."""
    return dict(zip(NETWORKS, (mobilenetv2(Path(settings.network)), {}), strict=True))


def _overrides(model: Mapping[str, Any]) -> list[str]:
    """The same for the command line."""
    group = [f"model={model['source']}"] if model else []
    return group + [f"model.{name}={_written(value)}" for name, value in model.items() if name != "source"]


def _written(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {item}" for name, item in value.items()) + "}"
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list) else str(value)


def _study(settings: DictConfig, output: Path, images: Path, model: Mapping[str, Any]) -> None:
    """Begins or continues a study."""
    labels = Path(settings.photographs) / "images.csv"
    limit = [] if settings.limit is None else [f"data.limit={settings.limit}"]
    data = ["data=folder", f"data.path={images}", f"data.labels={labels}", "data.name_column=ImageId"]
    sweep = f"study.sweep=[{','.join(settings.sweep)}]"
    arguments = [
        *_overrides(model),
        *data,
        "data.label_column=TrueLabel",
        "data.first_class=1",
        *limit,
        sweep,
        f"output={output}",
    ]
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={settings.processes}", "-m", "percep"]
    subprocess.run(
        [sys.executable, "-m", *launch, "task=explain", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )


def _correct(study: Path) -> list[str]:
    """The photographs that a network classifies correctly."""
    result, _, _ = main_variant(study)
    return [name for name, status in result.statuses.items() if status in (FOOLED, "not_found")]


def _chosen(folder: Path, images: Path, names: Sequence[str]) -> Path:
    """A folder with these photographs alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / f"{name}.png").is_file():
            shutil.copyfile(images / f"{name}.png", folder / f"{name}.png")
    return folder


def _summary(study: Path) -> dict[str, Any]:
    summary = json.loads((study / "summary.json").read_text(encoding="utf-8"))
    tables = {name: [_rounded(row) for row in value] for name, value in summary.items() if _is_table(value)}
    return {
        **summary,
        **tables,
        "each": {row["name"]: _values(row) for row in _rows(study / "photographs.csv") if _is_main(row, summary)},
    }


def _is_table(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) and "criteria" not in row for row in value)


def _is_main(row: Mapping[str, str], summary: Mapping[str, Any]) -> bool:
    return row["variant"] == summary["variants"][0]["name"] and row["status"] == FOOLED


def _rows(table: Path) -> Iterator[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _values(row: Mapping[str, str]) -> dict[str, float | None]:
    return {name: round(float(row[name]), _DIGITS) if row[name] else None for name in _PHOTOGRAPH}


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value for name, value in row.items()}


def _associations(study: Mapping[str, Any]) -> dict[str, float]:
    claim = study["claim"]
    key = association_key(claim["statistic"], claim["change"], claim["attention"])
    return {name: row[key] for name, row in study["each"].items() if row[key] is not None}


def _credits(settings: DictConfig, study: Mapping[str, Any]) -> list[dict[str, str]]:
    """Author, licence and source of the photographs that are shown."""
    shown = {choice.name for choice in chosen_photographs(_associations(study))}
    columns = ("ImageId", "Author", "License", "OriginalLandingURL")
    table = _rows(Path(settings.photographs) / "images.csv")
    return [{column: row[column] for column in columns} for row in table if row["ImageId"] in shown]


def save_chosen(path: Path, settings: DictConfig, name: str, study: Mapping[str, Any]) -> None:
    """The panels of a study, with maps of every pixel, of the photographs that its rule chooses."""
    model = load(**_models(settings)[name])
    assert model.preprocessing is not None
    associations = _associations(study)
    rows = []
    for choice in chosen_photographs(associations):
        file = Path(settings.photographs) / "images" / f"{choice.name}.png"
        (photograph,) = image(file, model.preprocessing)
        assert photograph.image is not None
        original = photograph.image[None]
        adversarial = read_image(Path(settings.work) / name / "adversarial" / f"{choice.name}.png")[None]
        label, new = (int(study["each"][choice.name][which]) for which in ("label", "new_class"))
        gradcams = {
            "gradcam": gradcam(model, original, [label]),
            "adversarial": gradcam(model, adversarial, [label]),
            "adversarial_new_class": gradcam(model, adversarial, [new]),
        }
        classes = (model.category(label), model.category(new))
        change = (1 - ssim_maps(original, adversarial)).mean(1)[0]
        rows.append(
            panel_row(
                choice, classes, original[0], adversarial[0], change, {of: maps[0] for of, maps in gradcams.items()}
            )
        )
    picture = Path(settings.work) / name / "chosen.png"
    save_panels(picture, rows, rule(Claim(**study["claim"]), len(associations)))
    with Image.open(picture) as figure:  # photographs, which PNG compresses badly
        figure.convert("RGB").save(path, quality=_QUALITY)


@hydra.main(version_base="1.3", config_path="conf", config_name="study_scale")
def main(settings: DictConfig) -> None:
    """Runs both studies; writes the JSON and the figures, of what is finished where that is interrupted."""
    try:
        run(settings)
    finally:
        found = collected(settings)
        text = json.dumps(found, indent=1) + "\n"
        (Path(settings.output) / "study-scale.json").write_text(text, encoding="utf-8")
        for name, study in found["studies"].items():
            shutil.copyfile(Path(settings.work) / name / "plots.png", Path(settings.figures) / f"{name}-plots.png")
            save_chosen(Path(settings.figures) / f"{name}-panels.jpg", settings, name, study)


if __name__ == "__main__":
    main()
