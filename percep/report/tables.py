"""The tables of a run: one row per image, and their summary."""

import json
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from statistics import fmean, median

import numpy as np
import pandas as pd

from percep.explain import Association, Associations

_PACKAGES = ("percep", "torch", "torchvision", "kornia", "captum", "hydra-core", "numpy")


@dataclass(frozen=True)
class ImageRow:
    """One image of a run. What is unknown is None: an unreadable file has a name and a status, nothing else.

    Attributes:
        name: the image's name, a path relative to the data's root.
        status: the attack's status, or "unreadable: reason".
        label: class index the image should have, with its name.
        predicted_before: the model's prediction on the reference, with its name.
        predicted_after: the model's prediction on the saved image, read back, with its name.
        success: the saved image is adversarial and inside the ball.
        certified: `percep.certify` finds the saved image inside the ball.
        min_ssim: smallest SSIM over windows and channels of the saved image.
        mean_ssim: mean SSIM over windows and channels of the saved image.
        l2: Euclidean norm of the perturbation, on the `[0, 1]` range.
        linf: largest absolute change of a value, on the `[0, 1]` range.
        gap: certified relative gap of the last program solved.
        gradient_calls: gradients of the loss taken for this image.
        seconds: wall time of the image's batch divided by the images in it.
        associations: of 1 - SSIM, Grad-CAM and texture; a correlation that is undefined stays empty in the
            table and its reason is given in the column `undefined`.
        zero_gradcam: Grad-CAM is zero everywhere.
    """

    name: str
    status: str
    label: int | None = None
    label_name: str | None = None
    predicted_before: int | None = None
    predicted_before_name: str | None = None
    predicted_after: int | None = None
    predicted_after_name: str | None = None
    success: bool | None = None
    certified: bool | None = None
    min_ssim: float | None = None
    mean_ssim: float | None = None
    l2: float | None = None
    linf: float | None = None
    gap: float | None = None
    gradient_calls: int | None = None
    seconds: float | None = None
    associations: Associations | None = None
    zero_gradcam: bool | None = None

    @property
    def correct_before(self) -> bool:
        """Whether the model classified the reference correctly."""
        return self.label is not None and self.label == self.predicted_before


@dataclass(frozen=True)
class MinimalRow(ImageRow):
    """One image of a search for the smallest change. There is no ball: the pixel range stands for it.

    Attributes:
        found: SSIM of the saved image in the measure searched for; None where it is not adversarial.
        missed: least SSIM above `found` of an image that was tried and was not adversarial; where nothing was
            found, the least SSIM tried.
    """

    found: float | None = None
    missed: float | None = None


def write_results(path: Path, rows: Sequence[ImageRow]) -> None:
    """Writes `results.csv`: a row per image in the order given, UTF-8, numbers that read back exactly.

    The rows are of one type, whose fields are the columns.
    """
    names = [field.name for field in fields(rows[0] if rows else ImageRow) if field.name != "associations"]
    columns = [*names, *_association_columns(None)]
    records = [{name: getattr(row, name) for name in names} | _association_columns(row.associations) for row in rows]
    write_csv(path, records, columns)


def write_csv(path: Path, records: list[dict[str, object]], columns: list[str]) -> None:
    """Writes records in UTF-8, numbers so that they read back exactly; None, NaN and what is missing are empty."""
    table = pd.DataFrame(records, columns=columns, dtype=object)
    table.to_csv(path, index=False, encoding="utf-8", errors="backslashreplace", lineterminator="\n")


def write_summary(path: Path, rows: Sequence[ImageRow], seed: int) -> None:
    """Writes `summary.json`: `summarise(rows)`, the seed and `versions()`; an undefined number is null."""
    summary = {**summarise(rows), "seed": seed, "versions": versions()}
    path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def summarise(rows: Sequence[ImageRow]) -> dict[str, object]:
    """Counts, medians and mean associations of a run.

    Returns:
        `images`, `unreadable`, `correct_before`; `successes` among those correct before, `certified` among
        the successes; `medians` over the successes; of `MinimalRow`s `one_minus_found`, its quartiles over the
        successes; `associations`, mean Pearson and Spearman over the `images` for which they are defined;
        `zero_gradcam_maps`.
    """
    correct = [row for row in rows if row.correct_before]
    successes = [row for row in correct if row.success]
    return {
        "images": len(rows),
        "unreadable": sum(row.status.startswith("unreadable") for row in rows),
        "correct_before": len(correct),
        "successes": len(successes),
        "certified": sum(bool(row.certified) for row in successes),
        "medians": {
            "one_minus_mean_ssim": _median(None if row.mean_ssim is None else 1 - row.mean_ssim for row in successes),
            **{
                name: _median(getattr(row, name) for row in successes)
                for name in ("min_ssim", "l2", "linf", "gradient_calls", "seconds")
            },
        },
        **({"one_minus_found": _quartiles(successes)} if any(isinstance(row, MinimalRow) for row in rows) else {}),
        "associations": {
            field.name: _mean_association(
                [getattr(row.associations, field.name) for row in rows if row.associations is not None]
            )
            for field in fields(Associations)
        },
        "zero_gradcam_maps": sum(bool(row.zero_gradcam) for row in rows),
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages a result depends on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _association_columns(associations: Associations | None) -> dict[str, object]:
    columns: dict[str, object] = {}
    reasons: list[str] = []
    for field in fields(Associations):
        association = None if associations is None else getattr(associations, field.name)
        columns[f"pearson_{field.name}"] = None if association is None else association.pearson
        columns[f"spearman_{field.name}"] = None if association is None else association.spearman
        if association is not None and association.undefined not in (None, *reasons):
            reasons.append(association.undefined)
    columns["undefined"] = "; ".join(reasons) or None
    return columns


def _median(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return median(known) if known else None


def _quartiles(rows: Iterable[ImageRow]) -> dict[str, float | None]:
    costs = [1 - row.found for row in rows if isinstance(row, MinimalRow) and row.found is not None]
    values = np.quantile(costs, (0.25, 0.5, 0.75)).tolist() if costs else [None] * 3
    return dict(zip(("lower_quartile", "median", "upper_quartile"), values, strict=True))


def _mean_association(values: Sequence[Association]) -> dict[str, float | int | None]:
    defined = [value for value in values if value.undefined is None]
    return {
        "pearson": fmean(value.pearson for value in defined) if defined else None,
        "spearman": fmean(value.spearman for value in defined) if defined else None,
        "images": len(defined),
    }
