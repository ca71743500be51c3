"""What the classifier looks at, where the image changed, and how far the two agree."""

from percep.explain.alignment import Association, Associations, associations, local_standard_deviation
from percep.explain.allocation import allocation_maps
from percep.explain.saliency import gradcam, last_convolutional_stage
from percep.explain.ssim_maps import ssim_maps

__all__ = [
    "Association",
    "Associations",
    "allocation_maps",
    "associations",
    "gradcam",
    "last_convolutional_stage",
    "local_standard_deviation",
    "ssim_maps",
]
