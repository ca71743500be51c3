"""The plots of a study: associations beside their controls, what regions keep, curves, and every variant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from percep.report.plot import Plot, Theme, plot
from percep.study import AssociationRow, CausalRow, CurveRow, Findings, SweepRow
from percep.study.criteria import capital, words

_WIDTH, _ROW, _FRAME = 480, 26, 84
_CURVE_HEIGHT = 320

_ORDERS = {"gradcam": 3, "another_image": 2, "squared_perturbation": 1, "random": 9}
"""Hues of a theme by the order of a curve."""


@dataclass(frozen=True)
class Mark:
    """A mean over photographs with its interval; `ours` where the claim is about it."""

    label: str
    estimate: float
    low: float
    high: float
    ours: bool = False


def study_plots(findings: Findings) -> list[Plot]:
    """Every plot there is something to draw for."""
    statistic = findings.claim.statistic
    named = capital(words(statistic))
    own = [row for row in findings.associations if row.variant == findings.sweep[0].name]
    perturbations = [_mark(row, row.first) for row in own if _by_perturbation(row, statistic)]
    maps = [_mark(row, row.second) for row in own if _by_map(row, statistic)]
    plots = [
        _intervals(
            perturbations,
            f"{named} with Grad-CAM",
            "By perturbation",
            "1 − SSIM of the attack, and of others in its ball or of its size",
            reference=0.0,
        ),
        _intervals(
            maps,
            f"{named} with 1 − SSIM",
            "By map",
            "attributions, and what must agree less, with the attack's 1 − SSIM",
            reference=0.0,
        ),
    ]
    plots += [_causal(findings, budget) for budget in ("equal", "own")]
    plots += [_curves(findings.curves, kind) for kind in ("insertion", "deletion")]
    return plots + _sweep(findings.sweep)


def _by_perturbation(row: AssociationRow, statistic: str) -> bool:
    attack = row.first == "dissimilarity" and row.shift_p is not None
    other = row.first != "dissimilarity" and row.shift_p is None
    return row.statistic == statistic and row.second == "gradcam" and (attack or other)


def _by_map(row: AssociationRow, statistic: str) -> bool:
    return row.statistic == statistic and row.first == "dissimilarity" and row.images > 0


def _mark(row: AssociationRow, name: str) -> Mark:
    label = "the attack" if name == "dissimilarity" else words(name)
    ours = row.first == "dissimilarity" and row.second == "gradcam"
    return Mark(label, row.estimate, row.low, row.high, ours)


def _causal(findings: Findings, budget: str) -> Plot:
    rows = [row for row in findings.causal if row.budget == budget]
    marks = [_region(row, findings.claim.share) for row in rows]
    note = "rescaled to the SSIM of the whole" if budget == "equal" else "as it is"
    return _intervals(
        marks, "share of the gain in margin that is kept", "Kept inside a region only", note, reference=None
    )


def _region(row: CausalRow, share: float) -> Mark:
    region = "top of Grad-CAM" if row.region == "top" else words(row.region)
    ours = row.region == "top" and row.share == share
    return Mark(f"{region}, {row.share:.0%}", row.gain, row.low, row.high, ours)


def _sweep(rows: Sequence[SweepRow]) -> list[Plot]:
    titles = {
        "association": ("Association", "of 1 − SSIM with Grad-CAM, by variant"),
        "control": ("Above the control", "difference in association, by variant"),
        "causal": ("Above the other region", "difference in the gain kept, by variant"),
    }
    plots = []
    for name, (title, note) in titles.items():
        marks = [
            Mark(row.name, criterion.interval.estimate, criterion.interval.low, criterion.interval.high, place == 0)
            for place, row in enumerate(rows)
            for criterion in row.criteria
            if criterion.name == name
        ]
        plots.append(_intervals(marks, "mean over photographs and its interval", title, note, reference=0.0))
    return plots


def _intervals(marks: Sequence[Mark], axis: str, title: str, note: str, reference: float | None) -> Plot:
    """Means with their intervals, one to a row, first on top."""

    def draw(figure: Figure, theme: Theme) -> None:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        if reference is not None:
            axes.axvline(reference, color=theme.muted, linewidth=1)
        for place, mark in enumerate(marks):
            colour = theme.hues[3] if mark.ours else theme.ink
            axes.plot([mark.low, mark.high], [place, place], color=colour, linewidth=2.5 if mark.ours else 1.5)
            axes.plot([mark.estimate], [place], "o", color=colour, markersize=7 if mark.ours else 5)
        axes.set_yticks(range(len(marks)), [mark.label for mark in marks])
        axes.set_ylim(len(marks) - 0.5, -0.5)
        axes.set_xlabel(axis)
        axes.grid(axis="x", alpha=0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelcolor=theme.ink)

    told = "; ".join(f"{mark.label} {mark.estimate:.2f} from {mark.low:.2f} to {mark.high:.2f}" for mark in marks)
    return plot(
        draw,
        width=_WIDTH,
        height=_FRAME + _ROW * len(marks),
        alt=f"{capital(axis)}, means with intervals: {told}.",
        title=title,
        note=note,
    )


def _curves(rows: Sequence[CurveRow], kind: str) -> Plot:
    means = _mean_progress(rows, kind)

    def draw(figure: Figure, theme: Theme) -> None:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=theme.rule, linewidth=1)
        _draw_curves(axes, means, lambda order: theme.hues[_ORDERS[order]])
        axes.set_xlabel(f"blocks {'added' if kind == 'insertion' else 'taken away'}")
        axes.set_ylabel("change in margin" if kind == "insertion" else "loss of margin")
        for direction in (axes.xaxis, axes.yaxis):
            direction.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False, loc="lower right")
        axes.grid(alpha=0.5)

    halves = ", ".join(f"{words(order)} {np.interp(0.2, *curve):.0%}" for order, curve in means.items())
    verb = "added" if kind == "insertion" else "taken away"
    return plot(
        draw,
        width=_WIDTH,
        height=_CURVE_HEIGHT,
        alt=f"Change in margin against the share of blocks {verb}, mean over photographs. After a fifth, in the order "
        f"of: {halves}.",
        title=capital(kind),
        note=f"blocks of the perturbation {verb}, first where the map is greatest",
    )


def _draw_curves(axes: Axes, means: dict[str, tuple[np.ndarray, np.ndarray]], colour: Callable[[str], str]) -> None:
    for (order, (blocks, progress)), style in zip(means.items(), ("-", "--", "-.", ":"), strict=True):
        axes.plot(blocks, progress, style, color=colour(order), label=words(order), linewidth=2)


def _mean_progress(rows: Sequence[CurveRow], kind: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Shares of blocks and mean progress by order, over the photographs for which it is defined."""
    means = {}
    for order in _ORDERS:
        lines = np.array([row.progress for row in rows if (row.kind, row.order) == (kind, order)])
        means[order] = (np.linspace(0, 1, lines.shape[1]), np.nanmean(lines, axis=0))
    return means
