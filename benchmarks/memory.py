"""Peak memory, measured in a process of its own; of `Dual`: `python -m benchmarks.memory SIDE FLOOR`.

Linux's high-water mark of resident memory is cleared after the imports and a small warm-up solve; the figure is
how far it rises above the resident memory of that moment. It thus includes the image, the linear term and the float64
certificate. glibc is told to give freed tensors back at once (`MALLOC_MMAP_THRESHOLD_`): what it would keep for later,
about half as much again, is no need of the solver.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from percep import Program, SSIMBall, solve
from percep.solvers import Dual

_STATUS = Path("/proc/self/status")


def peak_in_images(side: int, floor: float) -> float:
    """Peak memory of a `(1, 3, side, side)` floor solve, in image-sized float32 tensors."""
    return printed_alone("benchmarks.memory", str(side), str(floor)) / (3 * side * side * 4)


def printed_alone(module: str, *arguments: str) -> float:
    """The number that a module prints in a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "500000"}
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=environment)
    return float(done.stdout)


def peak_rise(work: Callable[[], object]) -> int:
    """By how many bytes resident memory rises, at most, while `work` runs."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _kibibytes("VmRSS")
    work()
    return (_kibibytes("VmHWM") - before) * 1024


def _measure(side: int, floor: float) -> int:
    torch.set_num_threads(1)
    _solve(128, floor)
    return peak_rise(lambda: _solve(side, floor))


def _solve(side: int, floor: float) -> None:
    """Two certificates' worth of iterations: memory does not grow after the first."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, side // 8, side // 8, generator=generator)
    reference = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    linear = torch.randn(reference.shape, generator=generator)
    solve(Program(SSIMBall(reference, floor=floor), linear), Dual(max_iterations=4, check_every=2), tol=1e-9)


def _kibibytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"no {name} in {_STATUS}")


if __name__ == "__main__":
    print(_measure(int(sys.argv[1]), float(sys.argv[2])))
