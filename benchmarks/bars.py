"""What the solvers are held to, and the tables that say where they stand."""

import math
from typing import Any

from benchmarks.timing import Timing, fastest


def judge(result: dict[str, Any]) -> list[dict[str, Any]]:
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


def judge_layer(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per bar of the differentiable layer, as `judge` gives them."""
    rows = []
    for row in result["backward"]:
        _, ratio, _ = row["ratio"]
        rows.append(_at_most(f"224x224x3, {row['setting']}: backward over forward", ratio, 1.0))
    for row in result["cvxpylayers"]:
        title = f"16 gray 32x32, every window, forward and backward, against cvxpylayers with {row['solver']}"
        text = f"{row['times_faster']:.3g}x ({row['ours_s'][1]:.2g} s, {row['theirs_s']:.2g} s)"
        rows.append({"case": title, "bar": ">= 50x faster", "measured": text, "reached": row["reached"]})
    most = max(result["memory"]["gibibytes"].values())
    rows.append(_at_most("8 photographs 224x224x3, forward and backward, peak memory in GiB", most, 2.0))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of `judge`, in Markdown."""
    lines = ["| case | bar | measured | reached |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['case']} | {row['bar']} | {row['measured']} | {'yes' if row['reached'] else 'no'} |")
    return "\n".join(lines)


def _speedup(timings: list[Timing], case: str, title: str, side: int, target: float, least: float) -> dict[str, Any]:
    mine, rival = (fastest(timings, case, side, kind, target) for kind in ("percep", "conic"))
    bar = f">= {least:g}x faster"
    if mine is None or rival is None:
        who = "percep" if mine is None else "no conic solver"
        text = f"{who} {'did not reach' if mine is None else 'reached'} the gap in the time allowed"
        if mine is not None:
            text += f" (percep {mine.median:.2g} s)"
        return {"case": title, "bar": bar, "measured": text, "reached": mine is not None}
    ratio = rival.median / mine.median
    guess = ", extrapolated" if rival.extrapolated else ""
    text = f"{ratio:.3g}x ({mine.solver} {mine.median:.2g} s, {rival.solver} {rival.median:.2g} s{guess})"
    return {"case": title, "bar": bar, "measured": text, "reached": ratio >= least}


def _at_most(title: str, value: float, most: float) -> dict[str, Any]:
    return {"case": title, "bar": f"<= {most:g}", "measured": f"{value:.2f}", "reached": value <= most}
