"""What one solve by `Dual` spends, phase by phase: `python -m benchmarks.solve_costs`, into results/solve-costs.json.

A floor solve of a photograph on one CPU thread. Seconds are CPU time, which other work on the machine hardly changes.
In a run of its own every operation of torch on an image's worth of values is counted as a pass, with the bytes that it
reads and writes; a kernel is one pass, of the bytes that it must move (`KERNELS`). The bytes at the speed of a large
copy say how long a phase would take if memory alone mattered.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import hydra
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.cases import Photographs
from benchmarks.machine import copy_bandwidth, describe
from percep import Program, Solution, SSIMBall, solve
from percep.kernels.cpu import launch as cpu
from percep.kernels.cpu.cg_iterate import CompiledIterate
from percep.solvers import Dual, dual, incumbents, iterative
from percep.solvers.preconditioner import Multilevel

_CONSOLE = Console()
PHASES = ("set-up", "iterate", "certificate", "repair")


class Work(NamedTuple):
    """What an operation by kernels does at least, for a floor.

    Attributes:
        passes: over the image.
        floats: image-sized float32 tensors that they read and write.
        products: with the system's matrix.
        preconditioned: applications of the preconditioner.
    """

    passes: int
    floats: int
    products: int = 0
    preconditioned: int = 0


KERNELS: dict[tuple[Any, str], Work] = {
    (cpu, "mean"): Work(1, 2),
    (cpu, "adjoint"): Work(1, 2),
    (cpu, "product"): Work(1, 4, products=1),
    (cpu, "update_multipliers"): Work(1, 14),
    (cpu, "window_excesses"): Work(1, 9),
    (cpu, "project"): Work(1, 5),
    (CompiledIterate, "rhs_weight"): Work(2, 3 + 3, preconditioned=1),
    (CompiledIterate, "restart"): Work(3, 3 + 4 + 7, products=1),
    (CompiledIterate, "revise_free"): Work(1, 6),
    (CompiledIterate, "precondition"): Work(1, 3, preconditioned=1),
    (CompiledIterate, "multiply"): Work(1, 6, products=1),
    (CompiledIterate, "move"): Work(1, 8),
    (CompiledIterate, "solution"): Work(1, 3),
}
"""By owner and name; the coarse grids, a sixteenth of an image and less, are left out."""
_PHASE_OF = {
    "iterate": ((dual._Iterate, "step"), (dual._Iterate, "maximise"), (dual._Iterate, "update")),
    "certificate": ((dual._Iterate, "candidate"), (incumbents.Incumbents, "update_with_bound")),
    "repair": ((iterative, "restore_feasibility"),),
}
"""The calls in which a phase happens; the rest is set-up."""

Counts = dict[str, dict[str, float]]
"""By phase: products with the system's matrix, applications of the preconditioner, passes and their bytes."""


def run(settings: DictConfig) -> dict[str, Any]:
    """Counts and times of one solve."""
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)
    reference, linear = Photographs().crop(settings.side, 3)

    def work() -> Solution:
        return solve(Program(SSIMBall(reference, floor=settings.floor), linear), Dual(), tol=settings.tol)

    solution = work()  # compiles the kernels
    seconds = [_timed(work) for _ in range(settings.repeats)]
    counts = counted(work, reference.numel())
    bandwidth = 1e9 * copy_bandwidth()
    rows = []
    for phase in PHASES:
        spent = float(np.median([each[phase] for each in seconds]))
        rows.append({"phase": phase, "cpu_s": spent, **counts[phase], "floor_s": counts[phase]["bytes"] / bandwidth})
    return {
        "machine": describe(settings.seed),
        "settings": OmegaConf.to_container(settings, resolve=True),
        "iterations": int(solution.iterations[0]),
        "gap": float(solution.gap[0]),
        "copy_bytes_per_s": bandwidth,
        "product_bytes": KERNELS[cpu, "product"].floats * 4 * reference.numel(),
        "rows": rows,
    }


def _timed(work: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of each phase."""
    with _phases() as phases:
        work()
    return phases.close()


def counted(work: Callable[[], object], pixels: int) -> Counts:
    """What `work` does on tensors of at least so many values."""
    with _phases() as phases:
        counts: Counts = {
            phase: dict.fromkeys(("products", "preconditioned", "passes", "bytes"), 0) for phase in PHASES
        }

        def add(what: str, number: float) -> None:
            counts[phases.current][what] += number

        with _kernels_counted(add, pixels), _Passes(add, pixels):
            work()
    return counts


class _Stopwatch:
    """CPU time by phase; phases nest, and what an inner one takes is not the outer one's."""

    def __init__(self) -> None:
        self._open = ["set-up"]
        self._seconds: dict[str, float] = defaultdict(float)
        self._since = time.process_time()

    @property
    def current(self) -> str:
        return self._open[-1]

    def close(self) -> dict[str, float]:
        """The seconds of every phase until now."""
        self._record()
        return {phase: self._seconds[phase] for phase in PHASES}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._record()
        self._open.append(name)
        try:
            yield
        finally:
            self._record()
            self._open.pop()

    def _record(self) -> None:
        now = time.process_time()
        self._seconds[self.current] += now - self._since
        self._since = now


@contextmanager
def _phases() -> Iterator[_Stopwatch]:
    stopwatch = _Stopwatch()
    with ExitStack() as stack:
        for phase, calls in _PHASE_OF.items():
            for owner, name in calls:

                def wrapped(function: Callable[..., Any], *given: Any, phase: str = phase, **named: Any) -> Any:
                    with stopwatch.phase(phase):
                        return function(*given, **named)

                _wrap(stack, owner, name, wrapped)
        yield stopwatch


def _wrap(stack: ExitStack, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Calls `wrapper(function, ...)` in place of a function until the stack is closed."""
    function = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        return wrapper(function, *given, **named)

    stack.enter_context(patch.object(owner, name, call))


@contextmanager
def _kernels_counted(add: Callable[[str, float], None], pixels: int) -> Iterator[None]:
    """Counts what the kernels do, which torch does not see, and applications of the preconditioner by torch."""
    with ExitStack() as stack:
        for (owner, name), work in (KERNELS | {(Multilevel, "__call__"): Work(0, 0, preconditioned=1)}).items():

            def kernel(function: Callable[..., Any], *given: Any, work: Work = work, **named: Any) -> Any:
                add("bytes", 4 * work.floats * pixels)
                for what in ("passes", "products", "preconditioned"):
                    add(what, getattr(work, what))
                return function(*given, **named)

            _wrap(stack, owner, name, kernel)
        yield


class _Passes(TorchDispatchMode):
    """Counts operations of torch on tensors of at least so many values, but for views and empty tensors."""

    def __init__(self, add: Callable[[str, float], None], pixels: int) -> None:
        super().__init__()
        self._add, self._pixels = add, pixels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "empty" not in str(func) and not _is_view(func):
            read = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
            written = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
            touched = [each for each in (*read, *written) if each.numel() >= self._pixels]
            if touched:
                self._add("passes", 1)
                self._add("bytes", sum(min(each.nbytes, each.untyped_storage().nbytes()) for each in touched))
        return result


def _is_view(function: Any) -> bool:
    aliases = [each.alias_info for each in function._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def table(result: dict[str, Any]) -> str:
    """The phases in Markdown, and the bytes beside those of the products alone."""
    lines = [
        "| phase | products | preconditioner | passes over the image | bytes | at the copy's speed | CPU time |",
        "|---|---|---|---|---|---|---|",
    ]
    totals = {key: sum(row[key] for row in result["rows"]) for key in result["rows"][0] if key != "phase"}
    for row in (*result["rows"], {"phase": "all", **totals}):
        lines.append(
            f"| {row['phase']} | {row['products']:.0f} | {row['preconditioned']:.0f} | {row['passes']:.0f} "
            f"| {row['bytes'] / 1e6:.0f} MB | {1e3 * row['floor_s']:.0f} ms | {1e3 * row['cpu_s']:.0f} ms |"
        )
    times = totals["bytes"] / (totals["products"] * result["product_bytes"])
    rows = "\n".join(lines)
    return (
        f"{rows}\n\n{result['iterations']} iterations to a gap of {result['gap']:.2g}; all bytes are {times:.1f} times "
        f"those of the products alone. A large copy moves {result['copy_bytes_per_s'] / 1e9:.0f} GB/s."
    )


@hydra.main(version_base="1.3", config_path="conf", config_name="solve_costs")
def main(settings: DictConfig) -> None:
    """Runs and writes the JSON."""
    result = run(settings)
    path = Path(settings.output) / "solve-costs.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    _CONSOLE.print(table(result), str(path), sep="\n", markup=False)


if __name__ == "__main__":
    main()
