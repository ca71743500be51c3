"""Time to a certified gap, ours against lifted conic programs: `python -m benchmarks.solvers [preset=full]`."""

import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from benchmarks import bars, machine, plots
from benchmarks.cases import Case, Photographs
from benchmarks.memory import peak_in_images
from benchmarks.timing import Timing, clock, conic, extrapolated, ours, quartiles, repeated
from percep import Program, SSIMBall, Window, solve
from percep.solvers.lagrangian import NormalEquations, feasible_multipliers

_CONSOLE = Console(stderr=True)
_STRIDED = Window.uniform(8, stride=4, padding="valid")


def run(settings: DictConfig) -> dict[str, Any]:
    """Every measurement of a preset, in one process and one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    photographs = Photographs()
    timings = _conic_comparison(settings, photographs)
    figures = {
        "gradient_s": quartiles(_gradient(settings, photographs)),
        "mean_s": quartiles(_mean(settings, photographs)),
        "warm_s": quartiles(_warm(settings, photographs)),
        "scaling": _scaling(settings, photographs),
        "batch": _batch(settings, photographs),
        "tiles_loss": _tiles_loss(settings, photographs),
        "memory_images": peak_in_images(settings.memory_side, settings.floor),
        "product_s": quartiles(_product(settings, photographs)),
        "copy_gigabytes_per_s": machine.copy_bandwidth(),
    }
    result: dict[str, Any] = {
        "machine": machine.describe(settings.seed),
        "settings": OmegaConf.to_container(settings, resolve=True),
        "timings": [asdict(timing) for timing in timings],
        "figures": figures,
    }
    result["bars"] = bars.solver_bars(result)
    return result


def _conic_comparison(settings: DictConfig, photographs: Photographs) -> list[Timing]:
    timings: list[Timing] = []
    small = _case("gray", "gray, every window, floor", settings, photographs, settings.small, 1)
    sizes = [
        _case("gray", small.title, settings, photographs, side, 1)
        for side in settings.conic_sides
        if side != settings.small
    ]
    strided_small = _case(
        "strided-gray", "gray, 8x8 stride 4, floor", settings, photographs, settings.small, 1, _STRIDED
    )
    strided = _case("strided", "8x8 stride 4, floor", settings, photographs, settings.strided, 3, _STRIDED)
    photo = _case("photograph", "every window, floor", settings, photographs, settings.large, 3)
    for case in (*sizes, small, strided_small, strided, photo):
        _CONSOLE.print(f"{case.title}, {case.side}x{case.side}x{case.channels}")
        for solver in settings.ours:
            approximate = solver == "tiles"  # measured by its loss instead
            copies = solver == "admm" and case is photo  # 121 floats per pixel
            if not approximate and not copies:
                timings += ours(case, solver, settings.targets, settings.repeats, settings.patience)
        if case is not photo:
            for backend in settings.conic:
                timings += conic(case, backend, settings.targets, settings.time_limit)
    return timings + extrapolated(timings, "gray", photo)


def _case(
    name: str,
    title: str,
    settings: DictConfig,
    photographs: Photographs,
    side: int,
    channels: int,
    window: Window | None = None,
) -> Case:
    reference, linear = photographs.crop(side, channels, settings.photograph)
    return Case(name, title, reference, linear, window or Window.gaussian(), floor=settings.floor)


def _gradient(settings: DictConfig, photographs: Photographs) -> list[float]:
    image = photographs.images[:1]
    photographs.gradient(image, 0)
    return repeated(lambda: photographs.gradient(image, 0), 4 * settings.repeats, settings.patience)


def _mean(settings: DictConfig, photographs: Photographs) -> list[float]:
    """One solve for each photograph, after a warm-up."""

    def one(index: int) -> object:
        ball = SSIMBall(photographs.images[index : index + 1], mean=settings.mean)
        return solve(Program(ball, photographs.gradients[index : index + 1]), "dual", tol=1e-3)

    one(0)
    return [clock(partial(one, index)) for index in range(len(photographs.images))]


def _warm(settings: DictConfig, photographs: Photographs) -> list[float]:
    """Solves of a Frank-Wolfe attack from its second step on, each started from the one before, to 1e-2."""
    image = photographs.images[:1]
    ball = SSIMBall(image, floor=settings.floor)
    delta = torch.zeros_like(image)
    previous, seconds = None, []
    for step in range(settings.attack_steps):
        program = Program(ball, photographs.gradient(image + delta, 0))
        start = time.perf_counter()
        previous = solve(program, "dual", tol=1e-2, warm_start=previous)
        if step > 0:
            seconds.append(time.perf_counter() - start)
        delta = delta + 2 / (step + 2) * (previous.delta - delta)
    return seconds


def _scaling(settings: DictConfig, photographs: Photographs) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for side in settings.scaling_sides:
        _CONSOLE.print(f"scaling, {side}x{side}")
        case = _case("scaling", "gray", settings, photographs, side, 1)
        (timing,) = ours(case, "dual", [1e-2], settings.repeats, settings.patience)
        rows.append({"side": side, "seconds": timing.median})
    return rows


def _batch(settings: DictConfig, photographs: Photographs) -> dict[str, float]:
    count, side, channels = settings.batch.count, settings.batch.side, settings.batch.channels
    crops = [photographs.crop(side, channels, first) for first in range(count)]
    balls = [SSIMBall(reference, floor=settings.floor) for reference, _ in crops]
    linear = [linear for _, linear in crops]
    single = clock(lambda: [solve(Program(b, g), "dual", tol=1e-2) for b, g in zip(balls, linear, strict=True)])
    together = SSIMBall(torch.cat([reference for reference, _ in crops]), floor=settings.floor)
    batched = clock(lambda: solve(Program(together, torch.cat(linear)), "dual", tol=1e-2))
    return {"count": count, "side": side, "channels": channels, "single_s": single, "batched_s": batched}


def _tiles_loss(settings: DictConfig, photographs: Photographs) -> list[float]:
    """Share of the exact objective that the tile approximation misses, per photograph."""
    losses = []
    for index in range(settings.repeats):
        reference, linear = photographs.crop(settings.large, 3, index)
        program = Program(SSIMBall(reference, floor=settings.floor), linear)
        exact, tiles = solve(program, "dual", tol=1e-3), solve(program, "tiles")
        losses.append(float(1 - tiles.objective[0] / exact.objective[0]))
    return losses


def _product(settings: DictConfig, photographs: Photographs) -> list[float]:
    """One product with the system's matrix, the inner loop of `Dual`."""
    reference, linear = photographs.crop(settings.large, 3, settings.photograph)
    program = Program(SSIMBall(reference, floor=settings.floor), linear)
    equations = NormalEquations(program, feasible_multipliers(program))
    equations.product(linear)
    return repeated(lambda: equations.product(linear), 20 * settings.repeats, settings.patience)


@hydra.main(version_base="1.3", config_path="conf", config_name="solvers")
def main(settings: DictConfig) -> None:
    """Runs a preset; writes its JSON and its plots."""
    result = run(settings)
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"solvers-{settings.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    for plot in plots.save(result, folder):
        _CONSOLE.print(str(plot))
    _CONSOLE.print(str(path), bars.table(result["bars"]), sep="\n", markup=False)


if __name__ == "__main__":
    main()
