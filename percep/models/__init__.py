"""Image classifiers on `[0, 1]` images: a network with its normalisation, and where its weights come from."""

from percep.choices import Source as Source
from percep.models.classifier import Classifier
from percep.models.loading import load
from percep.models.preprocessing import Preprocessing

__all__ = ["Classifier", "Preprocessing", "load"]
