"""The classes of pytorch-grad-cam as attributions: the example of docs/study.md, and its Grad-CAM beside percep's."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from percep.explain import gradcam, pearson
from percep.models import Classifier
from percep.study.attributions import chosen_attributions
from tests.support.own_maps import gradcam_plus_plus

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = torch.tensor([3, 8])


def classifier(network: nn.Module) -> Classifier:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return Classifier(network, mean=[0.5] * 3, std=[0.25] * 3).eval().requires_grad_(False)


def residual() -> Classifier:
    torch.manual_seed(0)
    return classifier(torchvision.models.resnet18(weights=None, num_classes=10))


def transformer() -> Classifier:
    small = {"img_size": 96, "num_classes": 10, "embed_dim": 24, "depth": 3, "num_heads": 2}
    return classifier(timm.create_model("vit_tiny_patch16_224", **small))


def photographs() -> Tensor:
    coarse = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, 96, mode="bilinear")


def test_the_example_is_an_attribution() -> None:
    model, images = residual(), photographs()
    (own,) = chosen_attributions([gradcam_plus_plus]).values()
    maps = own.maps(model, images, LABELS, 1)
    assert own.title == "gradcam plus plus"
    assert maps.shape == (2, 96, 96) and maps.dtype == images.dtype
    torch.testing.assert_close(maps.flatten(1).amax(1), torch.ones(2), rtol=0, atol=1e-4)  # its scale
    assert not torch.allclose(maps, own.maps(model, images, LABELS.flip(0), 1))
    assert not model.network.layer4._forward_hooks and not images.requires_grad


def patches(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].reshape(len(tokens), 6, 6, -1).movedim(-1, 1)


@pytest.mark.parametrize(
    ("build", "layer", "reshape"),
    [(residual, "layer4", None), (transformer, "blocks.2.norm1", patches)],
)
def test_both_have_one_grad_cam(
    build: Callable[[], Classifier], layer: str, reshape: Callable[[Tensor], Tensor] | None
) -> None:
    """But for the scale, which is 0 to 1 there."""
    model, images = build(), photographs()
    labels = model(images).argmax(1)

    def theirs(model: Classifier, images: Tensor, labels: Tensor) -> object:
        with GradCAM(model, [model.network.get_submodule(layer)], reshape_transform=reshape) as maps:
            return maps(images.requires_grad_(), [ClassifierOutputTarget(label) for label in labels])

    (own,) = chosen_attributions([theirs]).values()
    found = pearson(own.maps(model, images, labels, 1), gradcam(model, images, labels))
    assert (found.values > 0.9999).all()
