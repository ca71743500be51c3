"""Grad-CAM, and the choice of its layer."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from percep.errors import InputError, one_line
from percep.explain.logits import check_targets, logits_function, with_gradients
from percep.explain.maps.transformers import Tokens, tokens_of
from percep.models import Classifier
from percep.validation.class_indices import ClassIndices
from percep.validation.images import require_eval, require_images


@dataclass(frozen=True)
class _Call:
    """One call of a named module during a forward pass, in the order the calls end."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]

    @property
    def spatial(self) -> bool:
        """Whether the output is `(B, C, H, W)` with more than one position."""
        return len(self.shape) == 4 and self.shape[-2] * self.shape[-1] > 1


def gradcam(model: nn.Module, images: Tensor, targets: ClassIndices, layer: str | None = None) -> Tensor:
    """Grad-CAM of one class per image (Selvaraju et al., ICCV 2017), by captum's `LayerGradCam`.

    The activations of a layer, weighted by the spatial mean of the class logit's gradient, summed over
    channels, with negative values set to 0 and resampled bilinearly to the image's size. The scale is the logit's:
    divide by the maximum to draw a map. A map may be zero everywhere: at this layer nothing is evidence for the class.
    Of timm's transformers the activations are those of the patches, without class and other prefix tokens.

    Args:
        model: maps `(B, C, H, W)` images in `[0, 1]` to `(B, classes)` logits, in eval mode; its parameters may be
            frozen.
        images: `(B, C, H, W)`, floating point in `[0, 1]`.
        targets: `(B,)` class indices: a tensor, an array or a list of integers.
        layer: dotted name of a module inside `model` (inside `model.network` for a `Classifier`). By default
            the classifier's own `layer`, and without one the first normalisation of the last block of timm's vision
            and Swin transformers, and the `last_convolutional_stage` of other networks.

    Returns:
        `(B, H, W)`, at least 0, in the images' dtype, detached.

    Raises:
        InputError: tensors that are not images, a model in train mode or without logits, no such layer, a layer
            without a spatial output, a target that is not a class, or a network without such a layer, that
            takes no hooks, as TorchScript's do not, or whose gradients do not reach the layer.
    """
    require_images(images)
    logits = logits_function(model)
    if not len(images):
        return images.new_zeros(0, *images.shape[-2:])
    network = model
    if isinstance(model, Classifier):
        network, layer = model.network, layer or model.layer
    classes = check_targets(logits, images, targets)
    calls = _trace(network, images[:1])
    name, tokens = _chosen(network, calls, layer)
    module = network.get_submodule(name)
    with _reported(), with_gradients(images) as apart:
        if tokens is None:
            maps = LayerGradCam(logits, module).attribute(apart, classes, relu_attributions=True)
        else:
            maps = _token_maps(logits, module, tokens, apart, classes)
    # Under autocast the maps have 16 bits; interpolation in them would show steps.
    maps = maps.detach().to(images.dtype)
    return LayerGradCam.interpolate(maps, tuple(images.shape[-2:]), "bilinear")[:, 0]


def last_convolutional_stage(network: nn.Module, images: Tensor) -> str:
    """Dotted name of the module whose output is the last convolutional map before pooling.

    One forward pass is traced: the last convolution with more than one output position sets the map's size,
    and the last module with an output of that size closes the stage, so that a normalisation, an activation
    or the sum of a residual block is included: `layer4` of a ResNet, `features` of a DenseNet. A module used
    more than once, as a shared activation is, cannot be told apart by name and is passed over.

    Args:
        network: maps `images` to logits; in eval mode.
        images: `(B, C, H, W)`; only the first image is used.

    Raises:
        InputError: the network is in train mode, has no such stage, or leaves the `(B, C, H, W)` layout after it, as
            vision transformers do after their patch embedding, or fails in a forward pass with hooks.
    """
    require_eval(network)
    return _last_stage(_trace(network, images[:1]))


def _trace(network: nn.Module, images: Tensor) -> list[_Call]:
    """The calls of every named module in one forward pass."""
    calls: list[_Call] = []

    def hook(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def record(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                calls.append(_Call(name, module, tuple(output.shape)))

        return module.register_forward_hook(record)

    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        with _reported(), torch.no_grad():
            handles.extend(hook(name, module) for name, module in network.named_modules() if name)
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls


@contextmanager
def _reported() -> Iterator[None]:
    """Reports errors of hooks and gradients as `InputError`, but not a lack of memory, which may be temporary."""
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(f"Grad-CAM fails: {one_line(error)}") from error


def _last_stage(calls: list[_Call]) -> str:
    convolutions = [i for i, call in enumerate(calls) if isinstance(call.module, nn.Conv2d) and call.spatial]
    if not convolutions:
        raise InputError("the network has no convolution with a spatial output, so no stage for Grad-CAM")
    last = convolutions[-1]
    size = calls[last].shape[-2:]
    uses: dict[nn.Module, int] = {}
    for call in calls:
        uses[call.module] = uses.get(call.module, 0) + 1
    stages = [i for i in range(last, len(calls)) if _closes(calls[i], size) and uses[calls[i].module] == 1]
    if not stages or any(_leaves_layout(call) for call in calls[stages[-1] + 1 :]):
        raise InputError(
            "the network has no convolutional stage in front of its pooling, so no layer for Grad-CAM: "
            "name one whose output is (B, C, H, W)"
        )
    return calls[stages[-1]].name


def _closes(call: _Call, size: tuple[int, ...]) -> bool:
    return len(call.shape) == 4 and call.shape[-2:] == size


def _leaves_layout(call: _Call) -> bool:
    """Whether learned weights act on single positions, as on a transformer's tokens `(B, N, D)`."""
    learned = any(True for _ in call.module.parameters(recurse=False))
    return learned and (len(call.shape) == 3 or call.spatial)


def _chosen(network: nn.Module, calls: list[_Call], layer: str | None) -> tuple[str, Tokens | None]:
    """The name of a layer, and how it lays out patches; None where its outputs are `(B, C, H, W)`."""
    uses = Counter(call.name for call in calls)
    tokens = tokens_of(network, {call.name: call.shape for call in calls if uses[call.name] == 1})
    if layer is None:
        return (_last_stage(calls), None) if tokens is None else (tokens.layer, tokens)
    if layer not in dict(network.named_modules()):
        parts = ", ".join(name for name, _ in network.named_children())
        raise InputError(f"the network has no layer {layer!r}; its parts are {parts}")
    own = [call for call in calls if call.name == layer]
    if tokens is not None and any(tokens.has_map(one.shape) and not isinstance(one.module, nn.Conv2d) for one in own):
        return layer, tokens
    if not any(len(call.shape) == 4 for call in own):
        raise InputError(f"layer {layer!r} has no (B, C, H, W) output in a forward pass, so no Grad-CAM")
    return layer, None


def _token_maps(
    logits: Callable[[Tensor], Tensor], layer: nn.Module, tokens: Tokens, images: Tensor, classes: Tensor
) -> Tensor:
    """What captum's `LayerGradCam` gives of `(B, C, H, W)` outputs, of those that are tokens: `(B, 1, h, w)`."""
    held: list[Tensor] = []

    def hold(_module: nn.Module, _inputs: object, outputs: Tensor) -> None:
        held.append(outputs)

    handle = layer.register_forward_hook(hold)
    try:
        chosen = logits(images.requires_grad_()).gather(1, classes[:, None])
    finally:
        handle.remove()
    activations = held[0]
    (gradient,) = torch.autograd.grad(chosen.sum(), activations)
    weights = tokens.as_map(gradient).mean((2, 3), keepdim=True)
    return (weights * tokens.as_map(activations)).sum(1, keepdim=True).relu()
