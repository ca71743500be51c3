"""Time to a certified gap: of percep's solvers, and of conic ones on the lifted program."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.cases import Case
from percep import solve
from percep.errors import InputError
from percep.solvers import Solver
from percep.solvers.feasibility import scale_into_ball
from percep.solvers.incumbents import Incumbents
from percep.solvers.oracle import Lifted

# Loosest first. SCS stops on absolute and relative residuals, interior points on the duality gap and feasibility.
LADDERS: dict[str, tuple[float, ...]] = {
    "SCS": (1e-2, 1e-3, 1e-4, 1e-5),
    "CLARABEL": (1e-2, 1e-4, 1e-6),
    "MOREAU": (1e-2, 1e-4, 1e-6),
}


@dataclass
class Timing:
    """How long a solver took to a certified gap on a case, the certificate's time included.

    Attributes:
        setting: the conic solver's tolerance; the working precision of ours.
        gap: as certified; None where the solver gave no answer.
        reached: whether the gap is at most the target.
        setup_s: building the program; of a conic solver, cvxpy's statement and compilation.
        solve_s: one figure per repeat.
        extrapolated: not measured: a log-log fit through smaller sizes.
        note: why there is no figure, or how it was made.
    """

    case: str
    side: int
    channels: int
    solver: str
    kind: str
    setting: str
    target: float
    gap: float | None
    reached: bool
    setup_s: list[float] = field(default_factory=list)
    solve_s: list[float] = field(default_factory=list)
    extrapolated: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        """Seconds to solve, infinite where the gap was not reached."""
        return float(np.median(self.solve_s)) if self.reached else float("inf")


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    first, middle, third = np.quantile(values, (0.25, 0.5, 0.75))
    return float(first), float(middle), float(third)


def clock(action: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def repeated(action: Callable[[], object], repeats: int, patience: float) -> list[float]:
    """Seconds of each call; a call slower than `patience` is not repeated."""
    seconds = [clock(action)]
    while len(seconds) < repeats and seconds[0] <= patience:
        seconds.append(clock(action))
    return seconds


def precision(target: float) -> torch.dtype:
    """What our solvers iterate in: float32, and float64 below a gap of 1e-3."""
    return torch.float32 if target >= 1e-3 else torch.float64


def ours(case: Case, solver: str | Solver, targets: Sequence[float], repeats: int, patience: float) -> list[Timing]:
    """One of percep's solvers, from the loosest target on, until it fails or runs out of patience."""
    name = solver if isinstance(solver, str) else type(solver).__name__.lower()
    timings: list[Timing] = []
    for target in sorted(targets, reverse=True):
        dtype = precision(target)
        timing = Timing(
            case.name, case.side, case.channels, name, "percep", str(dtype).removeprefix("torch."), target, None, False
        )
        timings.append(timing)
        try:
            for _ in range(repeats):
                start = time.perf_counter()
                program = case.program(dtype)
                middle = time.perf_counter()
                solution = solve(program, solver, tol=target)
                timing.solve_s.append(time.perf_counter() - middle)
                timing.setup_s.append(middle - start)
                if timing.solve_s[-1] > patience:
                    break
        except InputError as error:
            timing.note = str(error)
            break
        timing.gap = float(solution.gap[0])
        timing.reached = timing.gap <= target
        if not timing.reached:
            timing.note = str(solution.status[0])
            break
        if timing.solve_s[0] > patience:
            break
    return timings


def conic(case: Case, backend: str, targets: Sequence[float], time_limit: float) -> list[Timing]:
    """A conic solver up its ladder of tolerances; each target takes the loosest rung that meets it.

    Compiled once, solved once per rung: conic runs are long, and n is 1.
    """
    program = case.program(torch.float64)
    found: dict[float, Timing] = {}
    last: Timing | None = None
    try:
        start = time.perf_counter()
        lifted = Lifted(program, backend)
        setup = time.perf_counter() - start
        for tolerance in LADDERS[backend]:
            start = time.perf_counter()
            lifted.run(_options(backend, tolerance, time_limit))
            delta, multipliers = lifted.answer()
            incumbents = Incumbents(program)
            image = torch.zeros(1, dtype=torch.int64)
            gap = float(incumbents.update(image, program, scale_into_ball(program.ball, delta), delta, multipliers, 1))
            seconds = time.perf_counter() - start
            for target in targets:
                last = Timing(
                    case.name, case.side, case.channels, backend, "conic", f"{tolerance:g}", target, gap, gap <= target,
                    [setup], [seconds],
                )  # fmt: skip
                if target not in found or not found[target].reached:
                    found[target] = last
            if gap <= min(targets) or seconds > time_limit:
                break
    except InputError as error:
        for target in targets:
            if target not in found:
                found[target] = Timing(
                    case.name, case.side, case.channels, backend, "conic", "", target, None, False, note=str(error)
                )
    return [found[target] for target in sorted(found, reverse=True)]


def _options(backend: str, tolerance: float, time_limit: float) -> dict[str, Any]:
    if backend == "SCS":
        return {"eps_abs": tolerance, "eps_rel": tolerance, "time_limit_secs": time_limit, "max_iters": 10**6}
    if backend == "CLARABEL":
        return {
            "tol_gap_abs": tolerance,
            "tol_gap_rel": tolerance,
            "tol_feas": tolerance,
            "time_limit": time_limit,
            "max_threads": 1,
        }
    interior = {"tol_gap_abs": tolerance, "tol_gap_rel": tolerance, "tol_feas": tolerance}
    return {"ipm_settings": interior, "time_limit": time_limit, "device": "cpu"}


def fastest(timings: Sequence[Timing], case: str, side: int, kind: str, target: float) -> Timing | None:
    """The quickest timing that reached a target; None if none did."""
    rows = [
        row
        for row in timings
        if row.case == case and row.side == side and row.kind == kind and row.target == target and row.reached
    ]
    return min(rows, key=lambda row: row.median, default=None)


def power_law(sides: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Exponent in pixels, and seconds at one pixel, of the least-squares line in log-log."""
    slope, offset = np.polyfit(2 * np.log(np.asarray(sides)), np.log(np.asarray(seconds)), 1)
    return float(slope), float(np.exp(offset))


def extrapolated(timings: Sequence[Timing], measured: str, case: Case) -> list[Timing]:
    """What conic solvers would take on `case`, from power laws through their times on smaller cases.

    Args:
        timings: with those of the cases named `measured`, of several sizes.
        measured: name of those cases.
        case: larger, with the same window; its channels count as pixels.
    """
    found = []
    pixels = case.side * case.side * case.channels
    for solver, target in sorted({(row.solver, row.target) for row in timings if row.kind == "conic"}):
        rows = [
            row for row in timings if (row.case, row.solver, row.target) == (measured, solver, target) and row.reached
        ]
        if len(rows) < 3:
            continue
        exponent, at_one = power_law([row.side * row.channels**0.5 for row in rows], [row.median for row in rows])
        sides = ", ".join(str(row.side) for row in rows)
        found.append(
            Timing(
                case.name,
                case.side,
                case.channels,
                solver,
                "conic",
                "",
                target,
                None,
                True,
                solve_s=[at_one * pixels**exponent],
                extrapolated=True,
                note=f"pixels^{exponent:.2f} through sides {sides}",
            )
        )
    return found
