"""The bars, targets for solvers, layer and attacks, and the tables of what was measured against each."""

import math
from statistics import median
from typing import Any

from benchmarks.timing import Timing, fastest
from percep.attacks.comparison import OURS


def solver_bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per bar: `case`, `bar`, `measured` (text), `reached` (bool)."""
    timings = [Timing(**row) for row in result["timings"]]
    settings, figures = result["settings"], result["figures"]
    small, large, strided = settings["small"], settings["large"], settings["strided"]
    rows: list[dict[str, Any]] = []
    for case, title, side, targets in (
        ("gray", f"{small}x{small} gray, every window, floor", small, ((1e-2, 30), (1e-3, 15))),
        ("photograph", f"{large}x{large}x3, every window, floor", large, ((1e-2, 100), (1e-3, 50))),
        ("strided", f"{strided}x{strided}x3, 8x8 stride 4, floor", strided, ((1e-3, 20),)),
        ("strided-gray", f"{small}x{small} gray, 8x8 stride 4, floor", small, ((1e-3, 1),)),
    ):
        for target, least in targets:
            rows.append(_speedup(timings, case, f"{title}, gap {target:g}", side, target, least))
    gradient = figures["gradient_s"][1]
    mean, warm = figures["mean_s"][1] / gradient, figures["warm_s"][1] / gradient
    rows.append(_at_most("224x224x3, mean ball, gap 1e-3, in gradients", mean, 1.0))
    rows.append(_at_most("floor solve inside an attack, gap 1e-2, in gradients", warm, 2.0))
    scaling = figures["scaling"]
    exponent = growth(scaling)
    title = f"time from {scaling[0]['side']}^2 to {scaling[-1]['side']}^2, gap 1e-2, as a power of pixels"
    rows.append(_at_most(title, exponent, 1.15))
    memory_side = settings["memory_side"]
    rows.append(
        _at_most(f"peak memory at {memory_side}x{memory_side}x3, in image-sized tensors", figures["memory_images"], 60)
    )
    batch = figures["batch"]
    ratio = batch["single_s"] / batch["batched_s"]
    title = (
        f"{batch['count']} images {batch['side']}x{batch['side']}x{batch['channels']} in one batch against one by one"
    )
    rows.append({"case": title, "bar": ">= 1x", "measured": f"{ratio:.2f}x", "reached": ratio >= 1})
    return rows


def growth(scaling: list[dict[str, float]]) -> float:
    """Exponent in pixels between the smallest and each larger side, the largest of them."""
    first = scaling[0]
    return max(
        math.log(row["seconds"] / first["seconds"]) / (2 * math.log(row["side"] / first["side"])) for row in scaling[1:]
    )


def layer_bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per bar of the differentiable layer, in the form of `solver_bars`."""
    rows = []
    for row in result["backward"]:
        _, ratio, _ = row["ratio"]
        rows.append(_at_most(f"224x224x3, {row['setting']}: backward over forward", ratio, 1.0))
    for row in result["cvxpylayers"]:
        title = f"16 gray 32x32, every window, forward and backward, against cvxpylayers with {row['solver']}"
        text = f"{row['times_faster']:.3g}x ({row['ours_s'][1]:.2g} s, {row['theirs_s']:.2g} s)"
        rows.append({"case": title, "bar": ">= 50x faster", "measured": text, "reached": row["reached"]})
    peak = max(result["memory"]["gibibytes"].values())
    rows.append(_at_most("8 photographs 224x224x3, forward and backward, peak memory in GiB", peak, 2.0))
    return rows


def attack_bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per bar of the attacks, in the form of `solver_bars`; `reached` is also "stretch" where that is met.

    A baseline "as published" rounds as its library does or not at all, and counts only if every saved image is still
    adversarial; "given our rounding" is the least cost among the baselines' images, each rounded in all ways.
    """
    rows = []
    untargeted, targeted = ({name: _medians(found) for name, found in result[kind].items()} for kind in _KINDS)
    ours, baselines = untargeted.pop(OURS), untargeted
    published = min((row["saved"], name) for name, row in baselines.items() if row["survives"] == 1)
    rounded_by_us = min((min(row["saved"], row["resaved"]), name) for name, row in baselines.items())
    title = "median 1 - MSSIM of the smallest saved adversarial image"
    for best, condition, bar, stretch in (
        (published, "as published, all surviving", 1 / 5, 1 / 10),
        (rounded_by_us, "given our rounding", 1 / 2, 1 / 4),
    ):
        rows.append(
            _share(f"{title}, of the best baseline {condition} ({best[1]})", ours["saved"], best[0], bar, stretch)
        )
    costs = [(row["float_cost"], row["saved_cost"]) for row in result["untargeted"][OURS]]
    survived = sum(saved < math.inf for _, saved in costs) / sum(found < math.inf for found, _ in costs)
    text = f"{100 * survived:.0f}%"
    rows.append({"case": "success after saving", "bar": "100%", "measured": text, "reached": survived == 1})
    early = [int(budget) for budget, cost in result["early"].items() if cost <= rounded_by_us[0]]
    rows.append(_fewest("gradients to the best baseline's cost, given our rounding", min(early, default=None), 40, 20))
    floor = result["floor_attack"]
    best = max((row["floor"], name) for name, row in baselines.items())
    rows.append(
        {
            "case": f"success at floor {floor['floor']}, a third of the gradients, "
            f"against the best baseline ({best[1]})",
            "bar": f">= {100 * best[0]:.0f}%",
            "measured": f"{100 * floor['success']:.0f}%, at most {max(floor['gradient_calls'])} gradients",
            "reached": floor["success"] >= best[0],
        }
    )
    ours = targeted.pop(OURS)
    best = min((min(row["saved"], row["resaved"]), name) for name, row in targeted.items())
    rows.append(_share(f"targeted, {title}, of the best baseline ({best[1]})", ours["saved"], best[0], 1 / 2, 0))
    rows.append(_fewest("time beyond the gradients, in gradients", result["overhead"][1], 1.0, 0.3))
    return rows


_KINDS = ("untargeted", "targeted")


def _medians(found: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "saved": median(row["saved_cost"] for row in found),
        "resaved": median(row["resaved_cost"] for row in found),
        "survives": sum(row["saved_cost"] < math.inf for row in found) / len(found),
        "floor": sum(bool(row["floor_success"]) for row in found) / len(found),
    }


def _share(title: str, ours: float, theirs: float, bar: float, stretch: float) -> dict[str, Any]:
    text = f"{ours / theirs:.3f} ({ours:.2e} against {theirs:.2e})"
    return {"case": title, "bar": f"<= {bar:g}", "measured": text, "reached": _reached(ours / theirs, bar, stretch)}


def _fewest(title: str, value: float | None, bar: float, stretch: float) -> dict[str, Any]:
    if value is None:
        return {"case": title, "bar": f"<= {bar:g}", "measured": "not reached", "reached": False}
    return {"case": title, "bar": f"<= {bar:g}", "measured": f"{value:.3g}", "reached": _reached(value, bar, stretch)}


def _reached(value: float, bar: float, stretch: float) -> bool | str:
    return "stretch" if value <= stretch else value <= bar


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of `solver_bars`, `layer_bars` or `attack_bars`, in Markdown."""
    lines = ["| case | bar | measured | reached |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['case']} | {row['bar']} | {row['measured']} | {_word(row['reached'])} |")
    return "\n".join(lines)


def _word(reached: bool | str) -> str:
    return reached if isinstance(reached, str) else "yes" if reached else "no"


def _speedup(timings: list[Timing], case: str, title: str, side: int, target: float, least: float) -> dict[str, Any]:
    ours, conic = (fastest(timings, case, side, kind, target) for kind in ("percep", "conic"))
    bar = f">= {least:g}x faster"
    if ours is None or conic is None:
        who = "percep" if ours is None else "no conic solver"
        text = f"{who} {'did not reach' if ours is None else 'reached'} the gap in the time allowed"
        if ours is not None:
            text += f" (percep {ours.median:.2g} s)"
        return {"case": title, "bar": bar, "measured": text, "reached": ours is not None}
    ratio = conic.median / ours.median
    extrapolated = ", extrapolated" if conic.extrapolated else ""
    text = f"{ratio:.3g}x ({ours.solver} {ours.median:.2g} s, {conic.solver} {conic.median:.2g} s{extrapolated})"
    return {"case": title, "bar": bar, "measured": text, "reached": ratio >= least}


def _at_most(title: str, value: float, most: float) -> dict[str, Any]:
    return {"case": title, "bar": f"<= {most:g}", "measured": f"{value:.2f}", "reached": value <= most}
