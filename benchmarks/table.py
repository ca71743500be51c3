"""Puts the tables of the committed results into the README and the documentation: `python -m benchmarks.table`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import bars, default_ball, scaling, solve_costs, startup, study_profile, study_resolution, study_scaling
from benchmarks.attacks import read
from benchmarks.study_scale_table import scale_tables
from benchmarks.study_table import study_tables
from percep.report.comparison.tables import summary, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def updated(page: str, names: Sequence[str]) -> str:
    """A page with what lies between the markers of each of its sections replaced."""
    for name in names:
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, rest = page.split(begin)
        _, after = rest.split(end)
        page = f"{before}{begin}\n{_SECTIONS[name]()}\n{end}{after}"
    return page


def _headline() -> str:
    """A row or two of every table, losses among them."""
    rows = _result("solvers-full")["bars"]
    rows = [*rows, *bars.layer_bars(_result("layer")), *bars.attack_bars(_result("attacks"))]
    return bars.table([row for row in rows if row["case"].startswith(_HEADLINE)])


def _solvers() -> str:
    result = _result("solvers-full")
    machine, figures = result["machine"], result["figures"]
    losses = ", ".join(f"{100 * loss:.1f}%" for loss in figures["tiles_loss"])
    copies = figures["product_s"][1] * figures["copy_gigabytes_per_s"] * 1e9 / (2 * 4 * 3 * 224 * 224)
    gradient, product = 1e3 * figures["gradient_s"][1], 1e3 * figures["product_s"][1]
    return (
        f"{bars.table(result['bars'])}\n\n"
        f"{_where(machine)} "
        f"A gradient is EfficientNet-Lite0's at 224x224, {gradient:.0f} ms.\n"
        f"A product with `Dual`'s matrix takes {product:.2f} ms at 224x224x3, {copies:.0f} times a copy of the image "
        f"at {figures['copy_gigabytes_per_s']:.0f} GB/s.\n"
        f"The tile approximation misses {losses} of the exact objective on the first photographs."
    )


def _layer() -> str:
    result = _result("layer")
    return f"{bars.table(bars.layer_bars(result))}\n\n{_where(result['machine'])}"


def _generator() -> str:
    result = _result("generator")
    lines = ["| photographs | one forward pass | iterated attack | random linear term |", "|---|---|---|---|"]
    for name in ("trained on", "held out"):
        part = result[name]
        cells = [
            f"{100 * part[attack]['success']:.0f}%, {part[attack]['seconds_per_image']:.2f} s"
            for attack in ("one pass", "iterated", "random linear term")
        ]
        lines.append(f"| {part['photographs']} {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _attacks() -> str:
    result = _result("attacks")
    settings, seconds = result["settings"], result["overhead"]
    found = [summary(read(rows)) for rows in result["untargeted"].values()]
    return (
        f"{bars.table(bars.attack_bars(result))}\n\n"
        f"{_where(result['machine'])} {settings['photographs']} photographs, {settings['gradients']} gradients; "
        f"overhead {seconds[0]:.2f} to {seconds[2]:.2f} gradients between the quartiles.\n\n"
        f"{table(found)}"
    )


def _study() -> str:
    return study_tables(_result("study"))


def _study_scale() -> str:
    return scale_tables(_result("study-scale"))


def _study_profile() -> str:
    result = _result("study-profile")
    return f"{study_profile.report(result)}\n\n{_where(result['machine'])}"


def _study_resolution() -> str:
    result = _result("study-resolution")
    return f"{study_resolution.report(result)}\n\n{_where(result['machine'])}"


def _device() -> str:
    result = _result("device-cpu")
    machine = result["machine"]
    lines = [
        "| operation of the inner loop | threads | bytes | floor | measured | ratio | torch without kernels |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        side, (lower, ratio, upper) = row["side"], row["ratio"]
        lines.append(
            f"| {row['piece']}, {side}x{side}x3 | {row['threads']} | {row['bytes'] / 1e6:.1f} MB "
            f"| {1e3 * row['floor_s']:.2f} ms | {1e3 * row['seconds'][1]:.2f} ms "
            f"| {ratio:.1f} [{lower:.1f}, {upper:.1f}] | {1e3 * row['torch_seconds'][1]:.2f} ms |"
        )
    rows = "\n".join(lines)
    load = machine["load"][0]
    quiet = ": not a quiet machine, whose ratios mean little" if load > 1.5 else ""
    return (
        f"{rows}\n\n{machine['cpu']}, torch {machine['versions']['torch']}, {machine['date'][:10]}, "
        f"load {load:.1f} on {machine['cores']} cores{quiet}."
    )


def _solve_costs() -> str:
    result = _result("solve-costs")
    return f"{solve_costs.table(result)}\n\n{_where(result['machine'])} (`python -m benchmarks.solve_costs`)"


def _default_ball() -> str:
    result = _result("default-ball")
    return (
        f"{default_ball.table(result['summary'])}\n\n{_where(result['machine'])} (`python -m benchmarks.default_ball`)"
    )


def _startup() -> str:
    result = _result("startup")
    machine = result["machine"]
    where = f"{machine['cpu']}, {machine['date'][:10]}, load {result['load'][0]:.1f} on {machine['cores']} cores."
    return f"{startup.report(result)}\n\n{where} (`python -m benchmarks.startup`)"


PAGES = {
    "README.md": ("headline",),
    "docs/attacks.md": ("attacks",),
    "docs/benchmarks.md": ("benchmarks", "startup", "solve-costs", "device"),
    "docs/layer.md": ("layer", "generator"),
    "docs/outputs.md": ("default-ball",),
    "docs/paper.md": ("study-scale",),
    "docs/scaling.md": ("scaling", "study-scaling", "study-profile", "study-resolution"),
    "docs/study.md": ("study",),
}
"""The sections of each page."""

_HEADLINE = (
    "224x224x3, every window, floor, gap 0.01",
    "224x224x3, mean ball",
    "floor solve inside an attack",
    "peak memory",
    "224x224x3, floor, rho 0:",
    "16 gray 32x32, every window, forward and backward, against cvxpylayers with MOREAU",
    "median 1 - MSSIM of the smallest saved adversarial image, of the best baseline as published",
    "success after saving",
    "success at floor 0.99",
)
"""How the cases begin that the front page shows."""

_SECTIONS: dict[str, Callable[[], str]] = {
    "headline": _headline,
    "benchmarks": _solvers,
    "layer": _layer,
    "generator": _generator,
    "attacks": _attacks,
    "study": _study,
    "study-profile": _study_profile,
    "study-resolution": _study_resolution,
    "study-scale": _study_scale,
    "default-ball": _default_ball,
    "startup": _startup,
    "solve-costs": _solve_costs,
    "scaling": lambda: scaling.report(_result("scaling")),
    "study-scaling": lambda: study_scaling.report(_result("study-scaling")),
    "device": _device,
}


def _result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _where(machine: dict[str, Any]) -> str:
    return f"{machine['cpu']}, one thread, torch {machine['versions']['torch']}, {machine['date'][:10]}."


def main() -> None:
    """Rewrites the pages."""
    for page, names in PAGES.items():
        path = ROOT / page
        path.write_text(updated(path.read_text(), names))


if __name__ == "__main__":
    main()
