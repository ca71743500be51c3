"""How attention moves under an attack: Grad-CAM of the adversarial image, and where evidence appears or disappears."""

import torch
from torch import Tensor

from percep.explain import gradcam
from percep.models import Classifier

APPEARING = "appearing"
"""Where the adversarial image has more evidence for the new class than the original has."""
DISAPPEARING = "disappearing"
"""Where the adversarial image has less evidence for the label than the original has."""

MOVEMENT = ("adversarial", "new_class", "adversarial_new_class", "noise", APPEARING, DISAPPEARING)
"""The maps of `movement_maps`."""


def movement_maps(
    model: Classifier,
    images: Tensor,
    adversarial: Tensor,
    noisy: Tensor,
    labels: Tensor,
    new_classes: Tensor,
    attention: Tensor,
) -> dict[str, Tensor]:
    """Grad-CAM before and after, for the label and for the class that the network takes the image for afterwards.

    Grad-CAM has the scale of the logit, so that maps of two images, and their differences, can be compared.

    Args:
        model: the classifier.
        images, adversarial: `(B, C, H, W)` in [0, 1], before and after.
        noisy: the images with a random perturbation of the same SSIM.
        labels: `(B,)` class indices.
        new_classes: `(B,)` class indices, of the adversarial images.
        attention: `(B, H, W)`, Grad-CAM of the labels at the images.

    Returns:
        `(B, H, W)` each, at least 0, by name: of the label at the adversarial image and at the noisy one
        ("adversarial", "noise"), of the new class before and after ("new_class", "adversarial_new_class"), and the
        positive parts of what the new class gains and of what the label loses ("appearing", "disappearing").
    """
    after = gradcam(model, adversarial, labels)
    new_before, new_after = gradcam(model, images, new_classes), gradcam(model, adversarial, new_classes)
    return {
        "adversarial": after,
        "new_class": new_before,
        "adversarial_new_class": new_after,
        "noise": gradcam(model, noisy, labels),
        APPEARING: (new_after - new_before).clamp_min(0),
        DISAPPEARING: (attention - after).clamp_min(0),
    }


def new_classes_of(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """`(B,)` int64: the target, or without one the likeliest class other than the label by `(B, K)` logits."""
    if targets is not None:
        return targets
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
