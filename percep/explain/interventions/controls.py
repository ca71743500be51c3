"""Negative controls, in which no association is expected: random gradients, other images' maps, randomised models.

All randomness comes from a generator on the CPU that the caller passes; results are on the device of the input.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from percep.errors import InputError


def random_gradient(gradient: Tensor, generator: torch.Generator) -> Tensor:
    """White Gaussian noise with the Euclidean norm of each image's gradient: `(B, C, H, W)`."""
    noise = _normal(tuple(gradient.shape), gradient, generator)
    sizes = [values.flatten(1).norm(dim=1).reshape(-1, *[1] * (gradient.ndim - 1)) for values in (gradient, noise)]
    return noise * (sizes[0] / sizes[1])


def phase_shuffled(gradient: Tensor, generator: torch.Generator) -> Tensor:
    """The gradient with random Fourier phases: a surrogate with the same power spectrum.

    The phases of one field of white noise are added to each image's, the same for all its channels, so that power
    spectra, cross-spectra between channels, autocorrelations and means are all preserved (Prichard, Theiler, Physical
    Review Letters 1994), and the result is real.

    Args:
        gradient: `(B, C, H, W)`, or maps `(B, H, W)`; any real values.
        generator: on the CPU.

    Returns:
        The same shape and dtype, with the same `|FFT|` over the last two axes, up to rounding.
    """
    height, width = (int(side) for side in gradient.shape[-2:])
    between = [1] * (gradient.ndim - 3)
    noise = _normal((len(gradient), *between, height, width), gradient.double(), generator)
    phases = torch.fft.rfft2(noise)
    phases = phases / phases.abs()
    phases[..., 0, 0] = 1  # preserves the mean
    spectrum = torch.fft.rfft2(gradient.double())
    return torch.fft.irfft2(spectrum * phases, s=(height, width)).to(gradient.dtype)


def sign_flipped(gradient: Tensor) -> Tensor:
    """The negative gradient: the opposite effect on the loss, with the same magnitude in every pixel."""
    return -gradient


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """`(count,)` int64: a random permutation without a fixed point, uniformly distributed.

    Raises:
        InputError: fewer than two images.
    """
    if count < 2:
        raise InputError(f"another image is needed for each image: got {count}")
    places = torch.arange(count)
    while True:  # a share of 1/e of all permutations has no fixed point
        order = torch.randperm(count, generator=generator)
        if not bool((order == places).any()):
            return order


def another_images(maps: Tensor, generator: torch.Generator) -> Tensor:
    """The maps `(B, ...)` of other images, by a `derangement`: preserves what the maps of all images have in common."""
    return maps[derangement(len(maps), generator).to(maps.device)]


def wrong_classes(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """`(B,)` int64: for each image a random class other than its label, uniformly distributed.

    Raises:
        InputError: fewer than two classes.
    """
    if classes < 2:
        raise InputError(f"a wrong class needs at least 2 classes, got {classes}")
    return (labels + torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)) % classes


def weight_layers(model: nn.Module) -> tuple[str, ...]:
    """Dotted names of the modules with parameters of their own, in the order of registration, input first.

    That is the order of the forward pass in the networks of `percep.models`. A module without a name of its own, the
    model itself, is "".
    """
    return tuple(name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False)))


def randomised(model: nn.Module, layers: Sequence[str], generator: torch.Generator) -> nn.Module:
    """A copy of a model with the weights of some layers shuffled; the model itself is not changed.

    The values of each parameter tensor are permuted at random, which destroys what was learned and preserves the scale
    of every layer. Normalisation statistics are buffers, and are not shuffled: an EfficientNet-Lite0 with all weights
    shuffled still gives finite logits that differ between photographs, by a quarter of what the trained one's do.

    Args:
        model: any module; its mode, and which parameters are frozen, are copied.
        layers: dotted names of modules with parameters of their own (`weight_layers`).
        generator: on the CPU.

    Raises:
        InputError: a name that is not such a module.
    """
    twin = copy.deepcopy(model)
    known = weight_layers(twin)
    for name in layers:
        if name not in known:
            raise InputError(f"the model has no layer {name!r} with weights of its own")
        _shuffle(twin.get_submodule(name), generator)
    return twin


def cascade(
    model: nn.Module, generator: torch.Generator, stages: int | None = None
) -> Iterator[tuple[tuple[str, ...], nn.Module]]:
    """Cascading randomisation: models with more and more layers shuffled, from the logits down.

    (Adebayo et al., NeurIPS 2018.) Each model is a copy, with the same random weights as the one before in the layers
    that both have shuffled. An explanation that hardly changes along the cascade does not depend on learned weights.

    Args:
        model: is not changed.
        generator: on the CPU.
        stages: number of models, with about equally many layers shuffled from one to the next; by default one per
            layer.

    Yields:
        The names of the layers randomised so far, last layer first, and the model; in the last model all
        layers are shuffled.

    Raises:
        InputError: no layer with weights, or a number of stages that is not in 1..(number of layers).
    """
    layers = weight_layers(model)[::-1]
    stages = len(layers) if stages is None else stages
    if not layers or not 1 <= stages <= len(layers):
        raise InputError(f"a cascade over {len(layers)} layers has 1 to {len(layers)} stages, got {stages}")
    current, done = model, 0
    for stage in range(1, stages + 1):
        upto = round(stage * len(layers) / stages)
        current = randomised(current, layers[done:upto], generator)
        done = upto
        yield layers[:upto], copy.deepcopy(current)


def _shuffle(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, generator=generator).to(like.device)
