"""Photographs: where they are found, what they are labelled, and how their files become tensors."""

from percep.data.labels import Labels, NameLabels
from percep.data.photographs import (
    Entry,
    Photograph,
    Photographs,
    Source,
    Survey,
    class_indices,
    folder,
    image,
    samples,
)

__all__ = [
    "Entry",
    "Labels",
    "NameLabels",
    "Photograph",
    "Photographs",
    "Source",
    "Survey",
    "class_indices",
    "folder",
    "image",
    "samples",
]
