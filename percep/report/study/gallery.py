"""The pictures of a study: photographs that were fooled, with the maps that were compared."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from percep.report.common.colours import gradcam_colours
from percep.report.common.embedded import BUDGET_SCALE, Layers, layers, webp_uri
from percep.report.common.panel import Prediction
from percep.study import Measurements
from percep.study.attributions import is_attribution
from percep.study.criteria import capitalised, display_name
from percep.study.movement import APPEARING

_HIGH = 0.99
_SAME_EVERYWHERE = "the same everywhere"
_MOVEMENT = {
    "adversarial": ("Grad-CAM after", "of the label, on the scale before", "gradcam"),
    "adversarial_new_class": ("Grad-CAM after, new class", "of the adversarial image", "adversarial_new_class"),
    APPEARING: (
        "Appearing evidence",
        "what Grad-CAM of the new class gains, on its scale after",
        "adversarial_new_class",
    ),
}
"""Titles and notes of maps of how Grad-CAM moves, and the map whose scale each has."""

GALLERY_LIMIT = 100
"""How many photographs have pictures at most, so that a page can be opened and sent."""


@dataclass(frozen=True)
class DrawnMap:
    """A map as a data URI.

    Attributes:
        title: what is printed below it.
        note: printed below the title.
        source: the picture; None where the map is the same everywhere.
        alt: what it shows, in words.
    """

    title: str
    note: str
    source: str | None
    alt: str


@dataclass(frozen=True)
class StudyExhibit(Layers):
    """The pictures of a photograph.

    Attributes:
        label: the name of its class; None where no label was given.
        before, after: the predictions on the original and on the saved adversarial image.
        maps: of the perturbation, then of the classifier, then of how it moves.
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
        title = display_name(attribution)
        alt = f"{title} of the original of {name}, bright where it speaks for the label"
        source = webp_uri(attention_colours(measurements.references[image], values))
        maps_drawn.append(DrawnMap(capitalised(title), _zero(values), source, alt))
    return (*maps_drawn, *_moved(name, measurements, image))


def _moved(name: str, measurements: Measurements, image: int) -> Iterator[DrawnMap]:
    known = measurements.attention | measurements.movement
    for movement, (title, note, scale) in _MOVEMENT.items():
        if movement in known:
            values = known[movement][image]
            source = webp_uri(attention_colours(measurements.saved[image], values, known[scale][image]))
            alt = f"{title} of {name}, {note}, bright where most"
            yield DrawnMap(title, _zero(values) or note, source, alt)


def attention_colours(image: Tensor, values: Tensor, scale: Tensor | None = None) -> np.ndarray:
    """A map of attention over an image in grey, up to the 99th percentile of the map, or of another.

    A few pixels may stand out so far that the others could not be told apart.

    Args:
        image: `(C, H, W)` in [0, 1].
        values: `(H, W)`, at least 0.
        scale: `(H, W)`, the map whose percentile is the largest value told apart; `values` where it is zero.

    Returns:
        `(H, W, 3)` colours in [0, 1].
    """
    high = 0.0 if scale is None else _high(scale)
    return gradcam_colours(image, values, high or _high(values))[0]


def _high(values: Tensor) -> float:
    return float(values.flatten().double().quantile(_HIGH)) or float(values.max())


def _zero(values: Tensor) -> str:
    return "" if values.any() else "zero everywhere"


def _change(name: str, change: str, values: Tensor) -> DrawnMap:
    positive = values.double().clamp_min(0)
    title = capitalised(display_name(change))
    alt = f"Map of {display_name(change)} of {name}, bright where most"
    if bool((positive == positive.flatten()[0]).all()):
        return DrawnMap(title, _SAME_EVERYWHERE, None, alt)
    colours = BUDGET_SCALE.colours((positive / positive.mean()).cpu().numpy())
    return DrawnMap(title, "in multiples of the uniform share", webp_uri(colours), alt)
