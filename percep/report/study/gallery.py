"""The pictures of a study: photographs that were fooled, with the maps that were compared."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from percep.report.common.colours import gradcam_colours
from percep.report.common.embedded import BUDGET_SCALE, Layers, layers, webp_uri
from percep.report.common.panel import Prediction
from percep.study import Measurements
from percep.study.attributions import is_attribution
from percep.study.criteria import capitalised, display_name

_HIGH = 0.99

GALLERY_LIMIT = 100
"""How many photographs have pictures at most, so that a page can be opened and sent."""


@dataclass(frozen=True)
class DrawnMap:
    """A map as a data URI, with its title, a note and what it shows in words."""

    title: str
    note: str
    source: str
    alt: str


@dataclass(frozen=True)
class StudyExhibit(Layers):
    """The pictures of a photograph.

    Attributes:
        label: the name of its class; None where no label was given.
        before, after: the predictions on the original and on the saved adversarial image.
        maps: of the perturbation, then of the classifier.
    """

    label: str | None
    before: Prediction
    after: Prediction
    maps: tuple[DrawnMap, ...]


def study_exhibits(
    measurements: Measurements,
    names: Collection[str],
    category: Callable[[int], str],
    without_label: Collection[str] = (),
) -> dict[str, StudyExhibit]:
    """The pictures of a batch by the names of its photographs, encoded, so that no tensor has to stay in memory.

    Args:
        measurements: of the batch.
        names: of the photographs that are to be shown.
        category: the name of a class by its index.
        without_label: names of the photographs whose label is the network's own prediction.
    """
    return {
        name: StudyExhibit(
            **vars(layers(measurements.references[i], measurements.saved[i], measurements.ssim[i])),
            label=None if name in without_label else category(int(measurements.labels[i])),
            before=_prediction(measurements.logits_before[i], category),
            after=_prediction(measurements.logits_after[i], category),
            maps=_maps(name, measurements, i),
        )
        for i, name in enumerate(measurements.names)
        if name in names
    }


def _prediction(logits: Tensor, category: Callable[[int], str]) -> Prediction:
    probabilities = logits.softmax(0)
    best = int(probabilities.argmax())
    return Prediction(category(best), float(probabilities[best]))


def _maps(name: str, measurements: Measurements, image: int) -> tuple[DrawnMap, ...]:
    maps_drawn = []
    for change, maps in measurements.changes.items():
        if change != "dissimilarity":  # has the SSIM map
            maps_drawn.append(_change(name, change, maps[image]))
    for attribution, maps in measurements.attention.items():
        if not is_attribution(attribution):
            continue
        values = maps[image]
        note = "" if values.any() else "zero everywhere"
        high = values.flatten().double().quantile(_HIGH).to(values)
        # A few pixels may stand out so far that the others could not be told apart.
        colours = gradcam_colours(measurements.references[image], values.clamp_max(high) if high > 0 else values)[0]
        title = display_name(attribution)
        alt = f"{title} of the original of {name}, bright where it speaks for the label"
        maps_drawn.append(DrawnMap(capitalised(title), note, webp_uri(colours), alt))
    return tuple(maps_drawn)


def _change(name: str, change: str, values: Tensor) -> DrawnMap:
    positive = values.double().clamp_min(0)
    mean = positive.mean()
    shares = torch.where(mean > 0, positive / mean, 0.0)
    even = bool((positive == positive.flatten()[0]).all())
    note = "the same everywhere" if even else "in multiples of the uniform share"
    title = display_name(change)
    alt = f"Map of {title} of {name}, bright where most"
    return DrawnMap(capitalised(title), note, webp_uri(BUDGET_SCALE.colours(shares.cpu().numpy())), alt)
