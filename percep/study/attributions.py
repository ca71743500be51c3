"""The attributions a study compares perturbations with: the one place where they are listed."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from percep.explain import gradcam, integrated_gradients, occlusion
from percep.models import Classifier


@dataclass(frozen=True)
class StudyAttribution:
    """An attribution method as a study uses it.

    Attributes:
        title: its name as reports print it.
        maps: of a model, `(B, C, H, W)` images in [0, 1], `(B,)` class indices and a number of gradients per image, for
            methods that have such a number: `(B, H, W)`, at least 0.
    """

    title: str
    maps: Callable[[Classifier, Tensor, Tensor, int], Tensor]


ATTRIBUTIONS: dict[str, StudyAttribution] = {
    "gradcam": StudyAttribution("Grad-CAM", lambda model, images, labels, _: gradcam(model, images, labels)),
    "integrated_gradients": StudyAttribution(
        "integrated gradients",
        lambda model, images, labels, gradients: integrated_gradients(model, images, labels, gradients).maps,
    ),
    "occlusion": StudyAttribution("occlusion", lambda model, images, labels, _: occlusion(model, images, labels).maps),
}
"""By name. Grad-CAM, the first, is computed in every variant of a study; the others in the main variant."""
