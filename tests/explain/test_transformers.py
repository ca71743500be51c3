"""Grad-CAM of timm's transformers against the last block written out, and the layers that have a map."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from percep.errors import InputError
from percep.explain import gradcam
from percep.models import Classifier

TARGETS = torch.tensor([0, 7])
SMALL = {"img_size": 64, "num_classes": 10, "embed_dim": 24, "depth": 3, "num_heads": 2}
HIERARCHICAL = {
    "img_size": 64,
    "num_classes": 10,
    "embed_dim": 8,
    "depths": (1, 2),
    "num_heads": (2, 2),
    "window_size": 4,
}


def network_of(name: str, **settings: object) -> nn.Module:
    """A network with random weights that are large enough to tell patches apart."""
    network = timm.create_model(name, pretrained=False, **settings).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3, generator=generator)
    return network


def photographs(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def gradient_of(logits: Tensor, normalised: Tensor) -> Tensor:
    return torch.autograd.grad(logits[[0, 1], TARGETS].sum(), normalised)[0]


def drawn(activations: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
    """Of `(B, h, w, C)`."""
    maps = torch.einsum("bhwc,bc->bhw", activations.detach(), gradient.mean((1, 2))).relu()
    assert maps.any()
    return functional.interpolate(maps[:, None], images.shape[-2:], mode="bilinear")[:, 0]


def by_hand(network: nn.Module, images: Tensor, prefix: int) -> Tensor:
    """A vision transformer's, its last block written out."""
    *before, last = network.blocks
    tokens = network._pos_embed(network.patch_embed(images))
    for block in before:
        tokens = block(tokens)
    normalised = last.norm1(tokens).detach().requires_grad_()
    tokens = tokens + last.attn(normalised)
    tokens = tokens + last.mlp(last.norm2(tokens))
    gradient = gradient_of(network.forward_head(network.norm(tokens)), normalised)
    height, width = (side // 16 for side in images.shape[-2:])
    shape = (len(images), height, width, -1)
    return drawn(normalised[:, prefix:].reshape(shape), gradient[:, prefix:].reshape(shape), images)


@pytest.mark.parametrize(
    ("name", "settings", "size", "prefix"),
    [
        ("vit_tiny_patch16_224", {}, (64, 64), 1),
        ("vit_tiny_patch16_224", {"img_size": (48, 80)}, (48, 80), 1),
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}, (32, 96), 1),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}, (64, 64), 5),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, (64, 64), 0),
        ("deit_tiny_patch16_224", {}, (64, 64), 1),
        ("deit_tiny_distilled_patch16_224", {}, (64, 64), 2),
    ],
)
def test_a_vision_transformer_is_explained_by_its_patches(
    name: str, settings: dict[str, object], size: tuple[int, int], prefix: int
) -> None:
    network, images = network_of(name, **SMALL | settings), photographs(*size)
    expected = by_hand(network, images, prefix)
    maps = gradcam(network.requires_grad_(False), images, TARGETS)
    assert maps.shape == images[:, 0].shape and not maps.requires_grad
    torch.testing.assert_close(maps, expected)
    with torch.inference_mode():
        torch.testing.assert_close(gradcam(network, images, TARGETS, "blocks.2.norm1"), expected)
    assert not network.blocks[-1].norm1._forward_hooks


def test_a_swin_transformer_is_explained_by_its_last_stage() -> None:
    network, images = network_of("swin_tiny_patch4_window7_224", **HIERARCHICAL), photographs()
    first, second = network.layers
    block, last = second.blocks
    patches = block(second.downsample(first(network.patch_embed(images))))
    normalised = last.norm1(patches).detach().requires_grad_()
    tokens = (patches + last._attn(normalised)).flatten(1, 2)
    tokens = tokens + last.mlp(last.norm2(tokens))
    logits = network.forward_head(network.norm(tokens.reshape(patches.shape)))
    expected = drawn(normalised, gradient_of(logits, normalised), images)
    assert normalised.shape[1:3] == (8, 8)
    torch.testing.assert_close(gradcam(network, images, TARGETS), expected)
    torch.testing.assert_close(gradcam(network, images, TARGETS, "layers.1.blocks.1.norm1"), expected)
    assert gradcam(network, images, TARGETS, "patch_embed.proj").shape == images[:, 0].shape  # (B, C, H, W), as ever


class Behind(nn.Module):
    """A transformer behind another module, as a user would write it."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.centred, self.transformer = nn.Identity(), transformer
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.transformer(self.centred(images) - 0.5)


def test_a_transformer_is_found_inside_a_network_and_behind_a_classifier() -> None:
    transformer, images = network_of("vit_tiny_patch16_224", **SMALL), photographs()
    expected = by_hand(transformer, images - 0.5, 1)
    torch.testing.assert_close(gradcam(Behind(transformer), images, TARGETS), expected)
    model = Classifier(transformer, mean=[0.5] * 3, std=[1.0] * 3).eval()
    torch.testing.assert_close(gradcam(model, images, TARGETS), expected)


def test_other_layers_of_a_transformer_have_a_map_if_they_hold_the_patches() -> None:
    network, images = network_of("vit_tiny_patch16_224", **SMALL), photographs()
    earlier = gradcam(network, images, TARGETS, "blocks.0")
    assert earlier.any() and not torch.allclose(earlier, gradcam(network, images, TARGETS))
    assert not gradcam(network, images, TARGETS, "norm").any()  # logits depend on its class token alone
    with pytest.raises(InputError, match="'head' has no"):
        gradcam(network, images, TARGETS, "head")


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "cait_xxs24_224", "eva02_tiny_patch14_224"])
def test_kin_of_vision_transformers_are_explained(name: str) -> None:
    settings = SMALL | ({"img_size": 56} if "patch14" in name else {})
    network = network_of(name, **settings)
    images = photographs(settings["img_size"], settings["img_size"])
    maps = gradcam(network, images, TARGETS)
    assert maps.shape == images[:, 0].shape and torch.isfinite(maps).all() and maps.any()
