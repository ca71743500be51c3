"""Photographs: finding their files, labelling them, and reading them as tensors."""

from percep.data.labels import Labels, NameLabels
from percep.data.photographs import (
    Entry,
    Inventory,
    Photograph,
    Photographs,
    Source,
    class_indices,
    folder,
    image,
    samples,
)

__all__ = [
    "Entry",
    "Inventory",
    "Labels",
    "NameLabels",
    "Photograph",
    "Photographs",
    "Source",
    "class_indices",
    "folder",
    "image",
    "samples",
]
