"""Grad-CAM against its closed form, and the layer it finds in each kind of network."""

import pytest
import timm
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.nn import functional

from percep.errors import InputError
from percep.explain import gradcam, last_convolutional_stage
from percep.models import Classifier


class Pooled(nn.Module):
    """Convolution, ReLU, global average pooling, linear: the network whose Grad-CAM has a closed form."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3, stride, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 4)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.activation(self.convolution(images)).mean((2, 3)))


class Normalising(nn.Module):
    """A network behind a normalisation, as a user would write it."""

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images - self.mean) / self.std)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def closed_form(network: Pooled, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The logit of c is the sum over k of w_ck mean(A_k): its gradient is w_ck / (h w) at every position."""
    with torch.no_grad():
        activations = network.convolution(images).relu()
        weights = network.head.weight[targets] / activations[0, 0].numel()
        maps = (weights[:, :, None, None] * activations).sum(1, keepdim=True).relu()
        return functional.interpolate(maps, images.shape[-2:], mode="bilinear")[:, 0]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradcam_is_the_closed_form_of_a_pooled_network(images, stride, frozen):
    torch.manual_seed(2)
    network = Pooled(stride).requires_grad_(not frozen)
    targets = torch.tensor([0, 3, 1])
    with torch.no_grad():
        maps = gradcam(network, images, targets)
    expected = closed_form(network, images, targets)
    assert maps.shape == (3, 12, 16) and not maps.requires_grad
    assert (expected.flatten(1).amax(1) > 0).all()
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(gradcam(network, images, targets, "activation"), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_have_the_dtype_of_their_images_under_autocast(images, dtype):
    torch.manual_seed(2)
    network, targets, images = Pooled(2).to(dtype), torch.tensor([0, 3, 1]), images.to(dtype)
    expected = gradcam(network, images, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = gradcam(network, images, targets)
        assert gradcam(network, images[:0], targets[:0]).dtype == dtype
    assert maps.dtype == expected.dtype == dtype
    torch.testing.assert_close(maps, expected, rtol=0.05, atol=0.05 * float(expected.max()))


def test_each_image_is_explained_on_its_own(images):
    network, targets = Pooled(), torch.tensor([0, 3, 1])
    together = gradcam(network, images, targets)
    alone = torch.cat([gradcam(network, images[i : i + 1], targets[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_a_classifier_is_explained_through_its_normalisation_at_its_own_layer(images):
    torch.manual_seed(0)
    network, targets = Pooled(), torch.tensor([0, 3, 1])
    model = Classifier(network, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], layer="convolution").eval()
    normalised = (images - model.mean) / model.std
    expected = gradcam(Normalising(network, model.mean, model.std), images, targets, "network.convolution")
    torch.testing.assert_close(gradcam(model, images, targets), expected)
    after_activation = closed_form(network, normalised, targets)
    assert not torch.allclose(expected, after_activation)
    torch.testing.assert_close(gradcam(model, images, targets, "activation"), after_activation)


def test_a_class_nothing_speaks_for_has_a_map_of_zeros(images):
    network = Pooled()
    nn.init.constant_(network.head.weight, -1.0)
    maps = gradcam(network, images, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(maps, torch.zeros(3, 12, 16))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("convolutions", "no layer 'convolutions'; its parts are convolution, activation, head"),
        ("head", r"'head' has no \(B, C, H, W\) output"),
    ],
)
def test_a_layer_that_cannot_serve_is_named(images, layer, message):
    with pytest.raises(InputError, match=message):
        gradcam(Pooled(), images, torch.zeros(3, dtype=torch.int64), layer)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 1], r"^targets must be integers of shape \(3,\)"),
        ([0, 1, 4], r"^targets must be class indices in \[0, 3\]"),
        ([0, 1, -1], r"^targets must be class indices in \[0, 3\]"),
    ],
)
def test_targets_must_be_a_class_per_image(images, targets, message):
    with pytest.raises(InputError, match=message):
        gradcam(Pooled(), images, torch.tensor(targets))


def torchvision_network(name: str) -> nn.Module:
    return torchvision.models.get_model(name, weights=None)


def timm_network(name: str) -> nn.Module:
    return timm.create_model(name, pretrained=False)


# Networks on the meta device have shapes and no numbers: no weights are drawn and nothing is computed.
@pytest.mark.parametrize(
    ("build", "name", "layer", "same"),
    [
        (EfficientNet.from_name, "efficientnet-lite0", "_bn1", "_bn1"),
        (torchvision_network, "mobilenet_v2", "features", "features.18"),
        (torchvision_network, "resnet18", "layer4", "layer4.1"),
        (torchvision_network, "convnext_tiny", "features", "features.7"),
        (torchvision_network, "densenet121", "features", "features.norm5"),
        (torchvision_network, "vgg11", "features.19", "features.19"),
        (torchvision_network, "squeezenet1_1", "classifier.2", "classifier.2"),
        (torchvision_network, "googlenet", "inception5b", "inception5b"),
        (timm_network, "efficientnet_b0", "bn2", "bn2"),
        (timm_network, "mobilenetv3_small_050", "blocks", "blocks.5"),
        (timm_network, "resnet18", "layer4", "layer4.1"),
        (timm_network, "convnext_atto", "norm_pre", "stages.3"),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet:FutureWarning")
def test_the_last_stage_is_found_in_every_kind_of_network(build, name, layer, same):
    with torch.device("meta"):
        network = build(name).eval()
        images = torch.rand(1, 3, 224, 224)
    assert last_convolutional_stage(network, images) == layer
    outputs = {}
    for key in {layer, same}:
        network.get_submodule(key).register_forward_hook(
            lambda _module, _inputs, output, key=key: outputs.update({key: output})
        )
    network(images)
    assert outputs[layer] is outputs[same]
    assert outputs[layer].shape[-1] in (7, 13, 14)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (torchvision_network, "vit_b_16"),
        (torchvision_network, "swin_t"),
        (timm_network, "vit_tiny_patch16_224"),
        (timm_network, "mixer_s16_224"),
    ],
)
def test_networks_on_tokens_have_no_convolutional_stage(build, name):
    with torch.device("meta"):
        network, images = build(name).eval(), torch.rand(1, 3, 224, 224)
        with pytest.raises(InputError, match="no convolutional stage"):
            last_convolutional_stage(network, images)


def test_a_network_without_a_convolution_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    with pytest.raises(InputError, match="no convolution with a spatial output"):
        gradcam(network, torch.rand(1, 3, 4, 4), torch.zeros(1, dtype=torch.int64))


def test_a_shared_activation_is_passed_over():
    activation = nn.ReLU()
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 4, 3), activation, nn.Flatten(), nn.Linear(256, 2)
    ).eval()
    assert last_convolutional_stage(network, torch.rand(1, 3, 12, 12)) == "2"


class Detached(nn.Module):
    """A convolution that passes no gradient, beside a path that does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3)
        self.head, self.beside = nn.Linear(5, 4), nn.Linear(3, 4)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.convolution(images).mean((2, 3))
        return self.head(features) + self.beside(images.mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: torch.jit.script(Pooled()), "Grad-CAM fails: .*hook.*ScriptModules"),
        (Detached, "Grad-CAM fails: .*graph"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_networks_that_hooks_or_gradients_do_not_serve_are_told_in_one_line(images, build, message):
    network = build()
    with pytest.raises(InputError, match=message) as caught:
        gradcam(network, images, torch.tensor([0, 3, 1]))
    assert "\n" not in str(caught.value)
    if isinstance(network, Detached):
        assert not network.convolution._forward_hooks


def test_a_lack_of_memory_is_no_property_of_the_network(images, monkeypatch):
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("captum.attr.LayerGradCam.attribute", full)
    with pytest.raises(torch.OutOfMemoryError):
        gradcam(Pooled(), images, torch.tensor([0, 3, 1]))
