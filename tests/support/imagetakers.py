"""Every public function that takes images, ready to be called with a batch of them: a new one has to be listed here."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import percep
from percep import Program, SSIMBall, SSIMBallLayer, Window, certify, explain, solve
from percep.solvers import SOLVERS

SIDE = 16
TILES = Window.uniform(4, stride=4, padding="valid")


def images(batch: int) -> Tensor:
    return torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def noise(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 5)).eval()


def labels(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.int64)


def ball(x: Tensor) -> SSIMBall:
    return SSIMBall(x, floor=0.9, window=TILES)


def small(batch: int) -> Tensor:
    return 0.01 * (noise(batch) > 0)


Asked = Callable[[Any, Tensor], Any]

# Each takes a model and the images, which stand where the name says; everything else is made to fit.
TAKERS: dict[str, Asked] = {
    "percep.SSIMBall": lambda _, x: ball(x).reference,
    "percep.SSIMBall.contains": lambda _, x: ball(images(len(x))).contains(x),
    "percep.SSIMBall.ssim_map": lambda _, x: ball(images(len(x))).ssim_map(x),
    "percep.SSIMBallLayer": lambda _, x: SSIMBallLayer(TILES, floor=0.9, tol=1e-2)(x, noise(len(x))),
    "percep.certify reference": lambda _, x: certify(x, images(len(x))).min_ssim,
    "percep.certify images": lambda _, x: certify(images(len(x)), x).min_ssim,
    "percep.project images": lambda _, x: percep.project(x, images(len(x)), floor=0.9, window=TILES).images,
    "percep.project reference": lambda _, x: percep.project(images(len(x)), x, floor=0.9, window=TILES).images,
    "percep.explain.ablation_maps": lambda m, x: explain.ablation_maps(m, x, small(len(x)), labels(len(x))),
    "percep.explain.confound_maps": lambda _, x: tuple(explain.confound_maps(x).values()),
    "percep.explain.deletion": lambda m, x: (
        explain.deletion(m, x, small(len(x)), x[:, 0], labels(len(x)), steps=2).margins
    ),
    "percep.explain.dissimilarity": lambda _, x: explain.dissimilarity(x, small(len(x))),
    "percep.explain.edge_strength": lambda _, x: explain.edge_strength(x),
    "percep.explain.energy_maps": lambda _, x: explain.energy_maps(x, small(len(x))),
    "percep.explain.gradcam": lambda m, x: explain.gradcam(m, x, labels(len(x))),
    "percep.explain.curves": lambda m, x: (
        explain.curves(m, x, small(len(x)), {"map": x[:, 0]}, labels(len(x)), steps=2)["insertion", "map"].margins
    ),
    "percep.explain.insertion": lambda m, x: (
        explain.insertion(m, x, small(len(x)), x[:, 0], labels(len(x)), steps=2).margins
    ),
    "percep.explain.integrated_gradients": lambda m, x: explain.integrated_gradients(m, x, labels(len(x)), 2).maps,
    "percep.explain.local_standard_deviation": lambda _, x: explain.local_standard_deviation(x),
    "percep.explain.occlusion": lambda m, x: explain.occlusion(m, x, labels(len(x)), 8, 8).maps,
    "percep.explain.restrict": lambda _, x: (
        explain.restrict(x, small(len(x)), torch.ones(len(x), SIDE, SIDE, dtype=torch.bool)).spent
    ),
    "percep.explain.ssim_maps reference": lambda _, x: explain.ssim_maps(x, images(len(x))),
    "percep.explain.ssim_maps images": lambda _, x: explain.ssim_maps(images(len(x)), x),
}

# Of those, the ones that ask a model.
ASKING = (
    "percep.explain.ablation_maps",
    "percep.explain.deletion",
    "percep.explain.gradcam",
    "percep.explain.insertion",
    "percep.explain.integrated_gradients",
    "percep.explain.occlusion",
)

# What computes on images or maps without taking images of its own.
OTHERS: dict[str, Asked] = {
    "percep.solve " + name: lambda _, x, name=name: solved(x, name)
    for name in sorted(set(SOLVERS) - {"oracle", "interior_point"})
} | {
    "percep.solve overlapping windows": lambda _, x: solved(x, "dual", Window.gaussian()),
    "percep.Window.mean": lambda _, x: Window.gaussian().mean(x),
    "percep.Window.squared_mean": lambda _, x: Window.gaussian().squared_mean(x),
    "percep.Window.adjoint": lambda _, x: Window.gaussian().adjoint(x, SIDE, SIDE),
    "percep.Window.squared_adjoint": lambda _, x: Window.gaussian().squared_adjoint(x, SIDE, SIDE),
    "percep.SSIMBall.scale": lambda _, x: ball(x).scale(noise(len(x))),
    "percep.SSIMBall.boundary": lambda _, x: ball(x).boundary(noise(len(x))),
    "percep.SSIMBall.split_at": lambda _, x: ball(x).split_at(small(len(x))).scale(noise(len(x))),
    "percep.SSIMBall.expand": lambda _, x: SSIMBall(x, mean=0.9).expand(small(len(x))).scale(noise(len(x))),
    "percep.explain.contribution_maps": lambda _, x: explain.contribution_maps(noise(len(x)), x),
    "percep.explain.multiplier_maps": lambda _, x: multipliers(x),
    "percep.explain.allocation_maps": lambda _, x: explain.allocation_maps(x, (SIDE, SIDE)),
    "percep.explain.block_means": lambda _, x: explain.block_means(x[:, 0], 5),
}

# Of `percep.explain`: classes, numbers, and what works on maps in NumPy, on regions, weights or gradients.
WITHOUT_IMAGES = {
    "SHARES",
    "Association",
    "Associations",
    "Attribution",
    "Curve",
    "ExchangeTest",
    "Interval",
    "MatchedRegion",
    "PairedTest",
    "Restricted",
    "ShiftTest",
    "Statistic",
    "across_images",
    "another_images",
    "associations",
    "bootstrap_interval",
    "cascade",
    "centred_gaussian",
    "derangement",
    "distance_from_centre",
    "exchange_test",
    "holm",
    "iou",
    "iou_shifts",
    "last_convolutional_stage",
    "matched_region",
    "paired_tests",
    "partial_spearman",
    "partial_spearman_shifts",
    "pearson",
    "pearson_shifts",
    "phase_shuffled",
    "pointing_game",
    "pointing_game_shifts",
    "random_gradient",
    "random_region",
    "randomised",
    "rate_interval",
    "relevance_mass",
    "relevance_mass_shifts",
    "shift_test",
    "shifted_region",
    "sign_flipped",
    "spearman",
    "spearman_shifts",
    "top_region",
    "weight_layers",
    "wrong_classes",
    "zero_maps",
}
# Of `percep`: results, errors, modules; `Program` takes a ball, whose reference is checked.
WITHOUT_IMAGES_OF_PERCEP = {
    "AdjointReport",
    "AdjointWarning",
    "Certificate",
    "InputError",
    "Multipliers",
    "PercepError",
    "Program",
    "Projection",
    "Solution",
    "Status",
    "UnavailableError",
    "Window",
    "solve",
}


def listed() -> Iterator[str]:
    """Names of functions above, without module and argument."""
    for name in (*TAKERS, *OTHERS):
        yield name.split()[0].removeprefix("percep.").removeprefix("explain.").split(".")[0]


def solved(x: Tensor, solver: str, window: Window = TILES) -> tuple[Tensor, ...]:
    answer = solve(Program(SSIMBall(x, floor=0.9, mean=0.97, window=window), noise(len(x)), 1.0), solver, tol=1e-2)
    return answer.delta, answer.bound


def multipliers(x: Tensor) -> Tensor:
    answer = solve(Program(ball(x), noise(len(x))), tol=1e-2)
    return percep.explain.multiplier_maps(ball(x), answer.multipliers, answer.delta)
