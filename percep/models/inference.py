"""A copy of a classifier that computes the same logits faster."""

import copy
import weakref

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.hooks import RemovableHandle

from percep.models.classifier import Classifier
from percep.models.merged_padding import with_merged_padding

_SAME = 1e-4
"""Logits may differ by this share of the largest: float32 sums in another order."""


def for_inference(model: Classifier) -> Classifier:
    """A copy with normalisations and paddings merged into their convolutions, and weights stored channels last.

    Names of modules stay, so that a layer for Grad-CAM is found where it was. Batch normalisations that do not follow a
    convolution directly, or have no running statistics, stay as they are; so do paddings that are not those of
    `percep.models.merged_padding`.

    Args:
        model: in eval mode, with a preprocessing. It is not changed.

    Returns:
        The copy; the model itself where it cannot be copied, or where the copy's logits of a test image are not the
        model's.
    """
    assert model.preprocessing is not None  # a loaded model has one
    side, channels = model.preprocessing.crop, int(model.mean.shape[1])
    image = torch.linspace(0, 1, channels * side * side, device=model.mean.device).reshape(1, channels, side, side)
    try:
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for name, convolution, normalisation in _followed_by_normalisation(twin, image):
                _fold(twin.network, name, convolution, normalisation)
            _merge_paddings(twin.network)
            twin = twin.to(memory_format=torch.channels_last)
            expected, found = model(image), twin(image)
    except Exception:  # whatever a network of others does when it is copied, hooked or changed
        return model
    return twin if bool((found - expected).abs().max() <= _SAME * expected.abs().max()) else model


def _followed_by_normalisation(model: Classifier, image: Tensor) -> list[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
    """Names of normalisations that are given a convolution's output, with both modules, each called once."""
    outputs: dict[int, tuple[weakref.ref[Tensor], nn.Conv2d]] = {}
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[str, nn.Conv2d, nn.BatchNorm2d]] = []

    def hook(name: str, module: nn.Module) -> RemovableHandle:
        def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[module] = calls.get(module, 0) + 1
            if isinstance(module, nn.Conv2d):
                outputs[id(output)] = weakref.ref(output), module
            elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in outputs:
                known, convolution = outputs[id(inputs[0])]
                if known() is inputs[0]:
                    pairs.append((name, convolution, module))

        return module.register_forward_hook(record)

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    handles = [hook(name, module) for name, module in model.network.named_modules() if isinstance(module, kinds)]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (name, convolution, normalisation)
        for name, convolution, normalisation in pairs
        if name and calls[convolution] == calls[normalisation] == 1 and normalisation.running_mean is not None
    ]


def _fold(network: nn.Module, name: str, convolution: nn.Conv2d, normalisation: nn.BatchNorm2d) -> None:
    assert normalisation.running_mean is not None and normalisation.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        normalisation.running_mean,
        normalisation.running_var,
        normalisation.eps,
        normalisation.weight,
        normalisation.bias,
    )
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(bias, requires_grad=False)
    # timm's normalisations are followed by the activation inside the same module.
    parts = (getattr(normalisation, "drop", None), getattr(normalisation, "act", None))
    after = [part for part in parts if part is not None]
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Sequential(*after).eval())


def _merge_paddings(network: nn.Module) -> None:
    for name, module in list(network.named_modules()):
        if name and isinstance(module, nn.Conv2d):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, with_merged_padding(module))
