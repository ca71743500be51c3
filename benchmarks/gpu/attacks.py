"""Attacks in images per second, beside projected gradient descent with as many gradients."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.clock import clocked
from benchmarks.gpu.inputs import FLOOR, MEAN, SEED, Run, images
from benchmarks.gpu.rows import Row
from percep.attacks import AttackResult, FrankWolfe, MinimalPerturbation

_RADIUS = 8 / 255
_BUDGET = 3
"""Gradients of the minimal attack for each of the others'."""


def rows(run: Run) -> Iterator[Row]:
    """A row for every attack and batch; weights are random, which is enough for times, labels what they predict."""
    side = run.scale.sides[0]
    name, network = network_of(run.scale.packaged)
    network = calibrated(network.requires_grad_(False).to(run.device), images(16, (side, side), run.device))
    attacks: dict[str, Callable[[Tensor, Tensor], AttackResult]] = {
        "FrankWolfe, mean": FrankWolfe(network, mean=MEAN, steps=run.scale.steps),
        "FrankWolfe, floor": FrankWolfe(network, floor=FLOOR, steps=run.scale.steps),
        "MinimalPerturbation": MinimalPerturbation(network, gradients=_BUDGET * run.scale.steps),
    }
    for batch in run.scale.attack_batches:
        for attack, call in attacks.items():
            label = {"attack": attack, "network": name, "batch": batch}
            yield attempt(label, partial(_against_pgd, run, call, network, batch))


def _against_pgd(run: Run, attack: Callable[[Tensor, Tensor], AttackResult], network: nn.Module, batch: int) -> Row:
    side = run.scale.sides[0]
    references = images(batch, (side, side), run.device)
    with torch.no_grad():
        labels = network(references).argmax(1)
    if run.scale.seconds:
        attack(references, labels)  # compiles and caches
    result, seconds = clocked(lambda: attack(references, labels), run.device)
    gradients = float(result.gradient_calls.double().mean())
    steps = max(1, round(gradients))
    pgd(network, references, labels, 1)
    _, pgd_seconds = clocked(lambda: pgd(network, references, labels, steps), run.device)
    return {
        "side": side,
        "images_per_s": batch / seconds,
        "gradients": gradients,
        "forward_passes": float(result.forward_calls.double().mean()),
        "success": float(result.success.double().mean()),
        "pgd_images_per_s": batch / pgd_seconds,
        "times_pgd": seconds / pgd_seconds,
    }


def pgd(network: Callable[[Tensor], Tensor], references: Tensor, labels: Tensor, steps: int) -> Tensor:
    """Projected gradient descent in the maximum norm (Madry et al., ICLR 2018), for its time: it never ends early."""
    adversarial = references.clone()
    for _ in range(steps):
        inputs = adversarial.detach().requires_grad_()
        loss = F.cross_entropy(network(inputs), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
        moved = adversarial + _RADIUS / 4 * gradient.sign()
        adversarial = (references + (moved - references).clamp(-_RADIUS, _RADIUS)).clamp(0, 1)
    return adversarial


def calibrated(network: nn.Module, references: Tensor) -> nn.Module:
    """In eval mode, its batch norms with the statistics of these images: without, random weights lose every signal."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # an average over all batches seen
    network.train()
    with torch.no_grad():
        network(references)
    return network.eval()


def network_of(packaged: bool) -> tuple[str, nn.Module]:
    """A network with random weights and its name: a small one, or if `packaged` timm's or torchvision's."""
    torch.manual_seed(SEED)
    if packaged:
        try:
            return "timm efficientnet_lite0", import_module("timm").create_model("efficientnet_lite0", pretrained=False)
        except ImportError:
            pass
        try:
            return "torchvision mobilenet_v2", import_module("torchvision.models").mobilenet_v2(weights=None)
        except ImportError:
            pass
    return "three convolutions", nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 100),
    )  # fmt: skip
