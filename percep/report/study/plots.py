"""The plots of a study: associations beside their controls, effects of regions, curves, and every variant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from percep.report.common.plot import LIGHT, Plot, Theme, plot, themed
from percep.study import AssociationRow, CausalRow, CurveRow, Findings, SweepRow
from percep.study.causal import BUDGETS
from percep.study.criteria import capitalised, display_name
from percep.study.effects import CURVES

_WIDTH, _ROW, _FRAME = 480, 26, 84
_DPI = 96
_CURVE_HEIGHT = 320

_ORDERS = {"gradcam": 3, "another_image": 2, "squared_perturbation": 1, "random": 9}
"""Hues of a theme by the order of a curve."""


@dataclass(frozen=True)
class Mark:
    """A mean over photographs with its interval; `ours` if the claim is about it."""

    label: str
    estimate: float
    low: float
    high: float
    ours: bool = False


def study_plots(findings: Findings) -> list[Plot]:
    """Every plot of a study's page, in order."""
    plots = [_plotted(chart) for chart in (*_associations(findings), *(_causal(findings, b) for b in BUDGETS[::-1]))]
    plots += [_curves(findings.curves, kind) for kind in CURVES]
    return plots + [_plotted(chart) for chart in _sweep(findings.sweep)]


def save_study_plots(path: Path, findings: Findings) -> None:
    """Writes `plots.png`: associations by perturbation and by map, and effects of regions."""
    charts = [*_associations(findings), _causal(findings, "equal")]
    heights = [_FRAME + _ROW * len(chart.marks) for chart in charts]
    with themed(LIGHT):
        figure = Figure((3 * _WIDTH / _DPI, max(heights) / _DPI), layout="constrained")
        for axes, chart in zip(figure.subplots(1, 3), charts, strict=True):
            chart.draw(axes, LIGHT)
            axes.set_title(f"{chart.title}\n{chart.note}", fontsize="medium", loc="left", x=-0.3)
        figure.savefig(path, dpi=2 * _DPI, facecolor="white", metadata={"Software": None})


@dataclass(frozen=True)
class Chart:
    """Means with their intervals, one to a row, first on top; a line at `reference` if there is one."""

    marks: Sequence[Mark]
    axis: str
    title: str
    note: str
    reference: float | None = 0.0

    def draw(self, axes: Axes, theme: Theme) -> None:
        """Draws it in the colours of a theme."""
        if self.reference is not None:
            axes.axvline(self.reference, color=theme.muted, linewidth=1)
        for place, mark in enumerate(self.marks):
            colour = theme.hues[3] if mark.ours else theme.ink
            axes.plot([mark.low, mark.high], [place, place], color=colour, linewidth=2.5 if mark.ours else 1.5)
            axes.plot([mark.estimate], [place], "o", color=colour, markersize=7 if mark.ours else 5)
        axes.set_yticks(range(len(self.marks)), [mark.label for mark in self.marks])
        axes.set_ylim(len(self.marks) - 0.5, -0.5)
        axes.set_xlabel(self.axis)
        axes.grid(axis="x", alpha=0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelcolor=theme.ink)


def _associations(findings: Findings) -> tuple[Chart, Chart]:
    statistic = findings.claim.statistic
    named = capitalised(display_name(statistic))
    own = [row for row in findings.associations if row.variant == findings.sweep[0].name]
    perturbations = [_mark(row, row.first) for row in own if _by_perturbation(row, statistic)]
    maps = [_mark(row, row.second) for row in own if _by_map(row, statistic)]
    return (
        Chart(
            perturbations,
            f"{named} with Grad-CAM",
            "By perturbation",
            "1 − SSIM of the attack, and of others in its ball or of its size",
        ),
        Chart(
            maps,
            f"{named} with 1 − SSIM",
            "By map",
            "attributions, and controls that must agree less, with the attack's 1 − SSIM",
        ),
    )


def _by_perturbation(row: AssociationRow, statistic: str) -> bool:
    attack = row.first == "dissimilarity" and row.shift_p is not None
    other = row.first != "dissimilarity" and row.shift_p is None
    return row.statistic == statistic and row.second == "gradcam" and row.images > 0 and (attack or other)


def _by_map(row: AssociationRow, statistic: str) -> bool:
    return row.statistic == statistic and row.first == "dissimilarity" and row.images > 0


def _mark(row: AssociationRow, name: str) -> Mark:
    label = "the attack" if name == "dissimilarity" else display_name(name)
    ours = row.first == "dissimilarity" and row.second == "gradcam"
    return Mark(label, row.estimate, row.low, row.high, ours)


def _causal(findings: Findings, budget: str) -> Chart:
    main = findings.sweep[0].name
    rows = [row for row in findings.causal if (row.variant, row.budget) == (main, budget)]
    marks = [_region(row, findings.claim.share) for row in rows]
    note = "rescaled to the SSIM of the full perturbation" if budget == "equal" else "not rescaled"
    return Chart(marks, "share of the gain in margin", "Restricted to a region", note, None)


def _region(row: CausalRow, share: float) -> Mark:
    region = "top of Grad-CAM" if row.region == "top" else display_name(row.region)
    ours = row.region == "top" and row.share == share
    return Mark(f"{region}, {row.share:.0%}", row.gain, row.low, row.high, ours)


def _sweep(rows: Sequence[SweepRow]) -> list[Chart]:
    titles = {
        "association": ("Association", "of 1 − SSIM with Grad-CAM, by variant"),
        "control": ("Above the control", "difference in association, by variant"),
        "causal": ("Above the other region", "difference in the share of the gain, by variant"),
    }
    common = f"{rows[0].model}, "
    charts = []
    for name, (title, note) in titles.items():
        marks = [
            Mark(
                row.name.removeprefix(common),
                criterion.interval.estimate,
                criterion.interval.low,
                criterion.interval.high,
                place == 0,
            )
            for place, row in enumerate(rows)
            for criterion in row.criteria
            if criterion.name == name
        ]
        charts.append(Chart(marks, "mean and interval", title, note))
    return charts


def _plotted(chart: Chart) -> Plot:
    def draw(figure: Figure, theme: Theme) -> None:
        figure.set_layout_engine("constrained")
        chart.draw(figure.subplots(), theme)

    described = "; ".join(
        f"{mark.label} {mark.estimate:.2f} from {mark.low:.2f} to {mark.high:.2f}" for mark in chart.marks
    )
    return plot(
        draw,
        width=_WIDTH,
        height=_FRAME + _ROW * len(chart.marks),
        alt=f"{capitalised(chart.axis)}, means with intervals: {described}.",
        title=chart.title,
        note=chart.note,
    )


def _curves(rows: Sequence[CurveRow], kind: str) -> Plot:
    means = _mean_progress(rows, kind)

    def draw(figure: Figure, theme: Theme) -> None:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=theme.rule, linewidth=1)
        _draw_curves(axes, means, lambda order: theme.hues[_ORDERS[order]])
        axes.set_xlabel(f"blocks {'added' if kind == 'insertion' else 'removed'}")
        axes.set_ylabel("change in margin" if kind == "insertion" else "loss of margin")
        for direction in (axes.xaxis, axes.yaxis):
            direction.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False, loc="lower right")
        axes.grid(alpha=0.5)

    after_a_fifth = ", ".join(f"{display_name(order)} {np.interp(0.2, *curve):.0%}" for order, curve in means.items())
    verb = "added" if kind == "insertion" else "removed"
    return plot(
        draw,
        width=_WIDTH,
        height=_CURVE_HEIGHT,
        alt=f"Change in margin against the share of blocks {verb}, mean over photographs. After a fifth, in the order "
        f"of: {after_a_fifth}.",
        title=capitalised(kind),
        note=f"blocks of the perturbation {verb}, first where the map is greatest",
    )


def _draw_curves(axes: Axes, means: dict[str, tuple[np.ndarray, np.ndarray]], colour: Callable[[str], str]) -> None:
    for (order, (blocks, progress)), style in zip(means.items(), ("-", "--", "-.", ":"), strict=True):
        axes.plot(blocks, progress, style, color=colour(order), label=display_name(order), linewidth=2)


def _mean_progress(rows: Sequence[CurveRow], kind: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Shares of blocks and mean progress by order, over the photographs for which it is defined."""
    means = {}
    for order in _ORDERS:
        lines = np.array([row.progress for row in rows if (row.kind, row.order) == (kind, order)])
        means[order] = (np.linspace(0, 1, lines.shape[1]), np.nanmean(lines, axis=0))
    return means
