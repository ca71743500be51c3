"""What the study's statistics must not find anything in: random gradients, other images' maps, randomised models.

All randomness comes from a generator on the CPU that the caller passes, and results go to the device of the input.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from percep.errors import InputError


def random_gradient(gradient: Tensor, generator: torch.Generator) -> Tensor:
    """White Gaussian noise with each image's Euclidean norm kept: `(B, C, H, W)`."""
    noise = _normal(tuple(gradient.shape), gradient, generator)
    sizes = [values.flatten(1).norm(dim=1).reshape(-1, *[1] * (gradient.ndim - 1)) for values in (gradient, noise)]
    return noise * (sizes[0] / sizes[1])


def phase_shuffled(gradient: Tensor, generator: torch.Generator) -> Tensor:
    """The gradient with its Fourier phases turned at random: its spectrum is kept, its places are lost.

    Each image's phases are turned by those of one field of white noise, the same for all its channels, so that power
    spectra, cross-spectra between channels, autocorrelations and means are all kept (Prichard, Theiler, Physical Review
    Letters 1994), and the result is real.

    Args:
        gradient: `(B, C, H, W)`, or maps `(B, H, W)`; any real values.
        generator: on the CPU.

    Returns:
        The same shape and dtype, with the same `|FFT|` over the last two axes, up to rounding.
    """
    height, width = (int(side) for side in gradient.shape[-2:])
    between = [1] * (gradient.ndim - 3)
    noise = _normal((len(gradient), *between, height, width), gradient.double(), generator)
    turns = torch.fft.rfft2(noise)
    turns = turns / turns.abs()
    turns[..., 0, 0] = 1  # the mean has no phase
    spectrum = torch.fft.rfft2(gradient.double())
    return torch.fft.irfft2(spectrum * turns, s=(height, width)).to(gradient.dtype)


def sign_flipped(gradient: Tensor) -> Tensor:
    """The opposite direction: it strengthens what the attack would weaken, with the same magnitudes everywhere."""
    return -gradient


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """`(count,)` int64: a permutation that leaves no image in its place, each as likely.

    Raises:
        InputError: fewer than two images.
    """
    if count < 2:
        raise InputError(f"another image is needed for each image: got {count}")
    places = torch.arange(count)
    while True:  # about every third permutation is one
        order = torch.randperm(count, generator=generator)
        if not bool((order == places).any()):
            return order


def another_images(maps: Tensor, generator: torch.Generator) -> Tensor:
    """For each of `(B, ...)` maps that of another image, by a `derangement`: what all photographs share is kept."""
    return maps[derangement(len(maps), generator).to(maps.device)]


def wrong_classes(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """`(B,)` int64: for each image a class that is not its label, each of the others as likely.

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
    """A copy of a model with the weights of some layers shuffled; the model itself is left as it is.

    The values of each parameter tensor change places at random. What was learned is lost, while every
    layer keeps its scale. Normalisation statistics are buffers, and are kept: a wholly shuffled EfficientNet-Lite0
    still gives finite logits that differ between photographs, by a quarter of what the trained one's do.

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
    """Models randomised from the logits down, more and more of them (Adebayo et al., NeurIPS 2018).

    Each is a copy of its own and has the same random weights as the one before in the layers they share. An explanation
    that hardly changes along the cascade does not depend on what the model has learned.

    Args:
        model: left as it is.
        generator: on the CPU.
        stages: how many models, about equally many layers apart; by default one per layer.

    Yields:
        The names of the layers randomised so far, last layer first, and the model. The last has none left.

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
