"""The tables of a run: one row per image, and their summary."""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from statistics import fmean, median
from typing import ClassVar, TypeGuard

import numpy as np

from percep.explain import Association, Associations
from percep.report.common.columns import Column, number, yes_or_no
from percep.report.common.files import write_csv

_MEDIANS = ("min_ssim", "l2", "linf", "gradient_calls", "seconds")
LEFT_OUT = ("unreadable", "unlabelled", "missing")
"""Kinds of problem for which a photograph is not attacked."""
_COUNTED = (
    *LEFT_OUT,
    "not_finite",
    "labelled",
    "correct_before",
    "without_label",
    "successes",
    "changed",
    "certified",
    "at_goal",
    "targeted",
)


@dataclass(frozen=True)
class ImageRow:
    """One image of a run. What is unknown is None: an unreadable file has a name and a status, nothing else.

    A derived row has the further fields of an attack, which are columns of `results.csv`; what the page and the summary
    show of them is said by `extra_columns` and `extra_costs`.

    Attributes:
        extra_columns: of the page's table, beside those that every attack has.
        name: the image's name, a path relative to the data's root.
        status: the attack's status, or the problem of a `percep.data.Photograph` that was not attacked: "unreadable:
            reason", "unlabelled: reason" or "missing: reason".
        label: class index the image should have, with its name; None where no label was given, never a prediction.
        predicted_before: the model's prediction on the reference, with its name: what an untargeted attack is to leave
            where there is no label.
        target: class index a targeted attack is to reach, with its name.
        predicted_after: the model's prediction on the saved image, read back, with its name.
        success: the saved image is adversarial and inside the ball.
        certified: `percep.certify` finds the saved image inside the ball.
        min_ssim: smallest SSIM over windows and channels of the saved image.
        mean_ssim: mean SSIM over windows and channels of the saved image.
        worst_row, worst_column: the pixel in the middle of the window with the smallest SSIM, counted from 0 at the top
            left; None where nothing was changed.
        worst_linf: largest absolute change of a value in that window, on the `[0, 1]` range.
        l2: Euclidean norm of the perturbation, on the `[0, 1]` range.
        linf: largest absolute change of a value, on the `[0, 1]` range.
        gap: certified relative gap of the last program solved.
        gradient_calls: gradients of the loss taken for this image.
        seconds: wall time of the image's batch divided by the images in it.
        associations: of 1 - SSIM, Grad-CAM and texture; a correlation that is undefined stays empty in the
            table and its reason is given in the column `undefined`, as for a network without a layer for Grad-CAM.
        zero_gradcam: Grad-CAM is zero everywhere; None where there is none.
        missing: how many labels without a photograph the row stands for, as of a `percep.data.Photograph`.
    """

    extra_columns: ClassVar[tuple[Column, ...]] = (Column("Certified", lambda row: row.certified, yes_or_no),)

    name: str
    status: str
    label: int | None = None
    label_name: str | None = None
    predicted_before: int | None = None
    predicted_before_name: str | None = None
    target: int | None = None
    target_name: str | None = None
    predicted_after: int | None = None
    predicted_after_name: str | None = None
    success: bool | None = None
    certified: bool | None = None
    min_ssim: float | None = None
    mean_ssim: float | None = None
    worst_row: int | None = None
    worst_column: int | None = None
    worst_linf: float | None = None
    l2: float | None = None
    linf: float | None = None
    gap: float | None = None
    gradient_calls: int | None = None
    seconds: float | None = None
    associations: Associations | None = None
    zero_gradcam: bool | None = None
    missing: int = 0

    @property
    def correct_before(self) -> bool | None:
        """Whether the model classified the reference correctly; None without a label or a prediction."""
        if self.label is None or self.predicted_before is None:
            return None
        return self.label == self.predicted_before

    @property
    def fooled(self) -> bool:
        """Whether the attack succeeded on a photograph that was classified correctly, or has no label.

        Photographs that met the goal to begin with, or were misclassified, do not count.
        """
        return bool(self.success) and self.status != "already_adversarial" and self.correct_before is not False

    def extra_costs(self) -> Mapping[str, float | None]:
        """Numbers whose quartiles over the successes the summary has, by their keys there."""
        return {}


@dataclass(frozen=True)
class MinimalRow(ImageRow):
    """One image of a search for the smallest change. There is no ball: the pixel range stands for it.

    Attributes:
        found: SSIM of the saved image in the measure searched for; None where it is not adversarial.
        missed: least SSIM above `found` of an image that was tried and was not adversarial; where nothing was
            found, the least SSIM tried.
    """

    extra_columns = (
        Column("1 − SSIM found", lambda row: _cost(row.found), number, numeric=True),
        Column("1 − SSIM missed", lambda row: _cost(row.missed), number, numeric=True),
    )

    found: float | None = None
    missed: float | None = None

    def extra_costs(self) -> Mapping[str, float | None]:
        """See `ImageRow.extra_costs`."""
        return {"one_minus_found": _cost(self.found)}


def write_results(path: Path, rows: Iterable[ImageRow], kind: type[ImageRow] | None = None) -> None:
    """Writes `results.csv`: a row per image in the order given, UTF-8, numbers that read back exactly.

    Args:
        path: the file to write.
        rows: of one type, whose fields are the columns; a thousand of them are in memory at a time.
        kind: that type, where there may be no row; `ImageRow` by default.
    """
    remaining = iter(rows)
    first = list(islice(remaining, 1))
    kind = kind or (type(first[0]) if first else ImageRow)
    names = [field.name for field in fields(kind) if field.name != "associations"]
    records = (
        {name: getattr(row, name) for name in names} | _association_columns(row.associations)
        for row in chain(first, remaining)
    )
    write_csv(path, records, [*names, *_association_columns(None)])


def summarise(rows: Iterable[ImageRow]) -> dict[str, object]:
    """Counts, medians, the worst places and mean associations of a run.

    Returns:
        `images`; of these `unreadable`, `unlabelled` and `not_finite` (no finite prediction), which were not attacked;
        beside them `missing`, labels without a photograph. `labelled`, those with a label and a prediction, and
        `correct_before` of them, None where there is no label; `without_label`, those with a prediction and no label.
        `successes`, the `fooled` ones, of which `changed` have no label and `certified` are; `at_goal`, those of the
        right class, or without a label, that met the goal to begin with; `targeted`, those with a target. `medians`
        over the successes; of `MinimalRow`s `one_minus_found`, quartiles over the successes (`ImageRow.extra_costs`).
        `least_ssim` and `largest_change` (in levels of 255) over all saved images, each with the name of its image.
        `associations`, mean Pearson and Spearman over the `images` for which they are defined; `zero_gradcam_maps`.
    """
    totals = Totals()
    for row in rows:
        totals.add(row)
    return totals.summary()


class Totals:
    """The running totals of `summarise`: rows are added one by one, and only their numbers are stored."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("images", *_COUNTED, "zero_gradcam_maps"), 0)
        self.medians = {name: array("d") for name in ("one_minus_mean_ssim", *_MEDIANS)}
        self.extra_costs: dict[str, array[float]] = {}
        self.least: tuple[float, ImageRow] | None = None
        self.largest: tuple[float, ImageRow] | None = None
        self.associations = {field.name: (array("d"), array("d")) for field in fields(Associations)}

    def add(self, row: ImageRow) -> None:
        self._count(row)
        self._measure(row)
        if row.fooled:
            values = {"one_minus_mean_ssim": _cost(row.mean_ssim)} | {name: getattr(row, name) for name in _MEDIANS}
            for name, value in values.items():
                if _is_finite(value):
                    self.medians[name].append(value)
        if row.associations is not None:
            for name, (pearson, spearman) in self.associations.items():
                association: Association = getattr(row.associations, name)
                if association.undefined is None:
                    pearson.append(association.pearson)
                    spearman.append(association.spearman)

    def _count(self, row: ImageRow) -> None:
        kind, predicted = row.status.partition(":")[0], row.predicted_before is not None
        free = predicted and row.label is None
        for name, holds in (
            ("images", not row.missing),
            ("missing", row.missing),
            *((name, kind == name) for name in LEFT_OUT if name != "missing"),
            ("not_finite", kind == "not_finite" and not predicted),
            ("labelled", predicted and row.label is not None),
            ("correct_before", row.correct_before),
            ("without_label", free),
            ("successes", row.fooled),
            ("changed", row.fooled and free),
            ("certified", row.fooled and row.certified),
            ("at_goal", kind == "already_adversarial" and row.correct_before is not False),
            ("targeted", predicted and row.target is not None),
            ("zero_gradcam_maps", row.zero_gradcam),
        ):
            self.counts[name] += int(holds or 0)

    def _measure(self, row: ImageRow) -> None:
        for name, cost in row.extra_costs().items():
            costs = self.extra_costs.setdefault(name, array("d"))
            if row.fooled and cost is not None:
                costs.append(cost)
        if _is_finite(row.min_ssim) and (self.least is None or row.min_ssim < self.least[0]):
            self.least = row.min_ssim, row
        if _is_finite(row.linf) and (self.largest is None or row.linf > self.largest[0]):
            self.largest = row.linf, row

    def summary(self) -> dict[str, object]:
        counts: dict[str, object] = dict(self.counts)
        zero = counts.pop("zero_gradcam_maps")
        if not counts["labelled"]:
            counts["correct_before"] = None
        return {
            **counts,
            "medians": {name: median(values) if values else None for name, values in self.medians.items()},
            **{name: _quartiles(costs) for name, costs in self.extra_costs.items()},
            "least_ssim": None
            if self.least is None
            else {
                "ssim": self.least[0],
                "name": self.least[1].name,
                "row": self.least[1].worst_row,
                "column": self.least[1].worst_column,
            },
            "largest_change": None
            if self.largest is None
            else {"levels": round(255 * self.largest[0]), "name": self.largest[1].name},
            "associations": {
                name: {
                    "pearson": fmean(pearson) if pearson else None,
                    "spearman": fmean(spearman) if spearman else None,
                    "images": len(pearson),
                }
                for name, (pearson, spearman) in self.associations.items()
            },
            "zero_gradcam_maps": zero,
        }


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


def _cost(ssim: float | None) -> float | None:
    return None if ssim is None else 1 - ssim


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _quartiles(costs: Sequence[float]) -> dict[str, float | None]:
    values = np.quantile(costs, (0.25, 0.5, 0.75)).tolist() if costs else [None] * 3
    return dict(zip(("lower_quartile", "median", "upper_quartile"), values, strict=True))
