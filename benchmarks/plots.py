"""Pictures of a benchmark's result: time to gap, and growth with the size of the image."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.timing import Timing


def save(result: dict[str, Any], folder: Path) -> list[Path]:
    """Writes `solvers-NAME.png`: both pictures side by side."""
    timings = [Timing(**row) for row in result["timings"]]
    settings = result["settings"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _time_to_gap(left, [row for row in timings if row.case == "gray" and row.side == settings["small"]])
    left.set_title(f"{settings['small']}x{settings['small']} gray, every 11-tap window, floor {settings['floor']}")
    _growth(right, timings, result["figures"]["scaling"])
    right.set_title("gray, every 11-tap window, gap 1e-2")
    figure.suptitle(f"one thread, {result['machine']['cpu']}", fontsize=9)
    path = folder / f"solvers-{settings['name']}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return [path]


def _time_to_gap(axes: Axes, timings: list[Timing]) -> None:
    for solver in dict.fromkeys(row.solver for row in timings):
        rows = [row for row in timings if row.solver == solver and row.reached]
        style = "o-" if rows and rows[0].kind == "percep" else "s--"
        axes.loglog([row.median for row in rows], [row.target for row in rows], style, label=solver)
    axes.set_xlabel("seconds, the certificate included")
    axes.set_ylabel("certified relative gap")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _growth(axes: Axes, timings: list[Timing], scaling: list[dict[str, float]]) -> None:
    axes.loglog([row["side"] ** 2 for row in scaling], [row["seconds"] for row in scaling], "o-", label="dual")
    rows = [row for row in timings if row.case == "gray" and row.kind == "conic" and row.target == 1e-2 and row.reached]
    for solver in dict.fromkeys(row.solver for row in rows):
        mine = sorted((row.side, row.median) for row in rows if row.solver == solver)
        axes.loglog([side**2 for side, _ in mine], [seconds for _, seconds in mine], "s--", label=solver)
    axes.set_xlabel("pixels")
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
