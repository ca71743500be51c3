"""The plots of a study: associations beside their controls, effects of regions, curves, and every variant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import blended_transform_factory

from percep.report.common.plot import LIGHT, Plot, Theme, plot, save_figure, themed
from percep.study import AssociationRow, CausalRow, Criterion, CurveRow, Findings
from percep.study.causal import BUDGETS
from percep.study.criteria import capitalised, display_name, region_name
from percep.study.effects import CURVES
from percep.study.photographs import association_key, gain_key, values_by_name

# Pixels. At this width the text can be read where a plot is shown 400 pixels wide.
_WIDTH, _ROW, _FRAME = 480, 26, 84
_HEADING, _HEADING_LINE = 60, 66
"""Height of a heading in `plots.png`, and the characters of its lines."""
_CURVE_HEIGHT = 360
_DPI = 96

_DOTS = 60
"""Most photographs that have a dot each."""
_GOLDEN = 0.618
"""Multiples of it, without their whole parts, are spread evenly however many there are."""

_ORDERS = {"gradcam": 3, "another_image": 2, "squared_perturbation": 1, "random": 9}
"""Hues of a theme by the order of a curve."""


@dataclass(frozen=True)
class Mark:
    """A mean over photographs with its interval, and the values it is the mean of; `ours` if the claim is about it."""

    label: str
    estimate: float
    low: float
    high: float
    values: tuple[float, ...] = ()
    ours: bool = False

    @property
    def dots(self) -> tuple[float, ...]:
        """The values if they are few enough to be told apart."""
        return self.values if len(self.values) <= _DOTS else ()


def study_plots(findings: Findings) -> list[Plot]:
    """Every plot of a study's page, in order."""
    main = [*_associations(findings), *(_causal(findings, budget) for budget in BUDGETS[::-1])]
    sweep = _sweep(findings)
    plots = [_plotted(chart, _limits(main, chart)) for chart in main]
    plots += [_curves(findings.curves, kind) for kind in CURVES]
    return plots + [_plotted(chart, _limits(sweep, chart)) for chart in sweep]


def save_study_plots(path: Path, findings: Findings) -> None:
    """Writes `plots.png`, or a PDF by that suffix: associations by perturbation and by map, and effects of regions."""
    share = findings.claim.share
    charts = [*_associations(findings), _causal(findings, "equal", share)]
    rows = [height for chart in charts for height in (_HEADING, _FRAME - 20 + _ROW * len(chart.marks))]
    with themed(LIGHT):
        figure = Figure((_WIDTH / _DPI, sum(rows) / _DPI), layout="constrained")
        axes = figure.subplots(len(rows), 1, height_ratios=rows)
        for chart, heading, place in zip(charts, axes[::2], axes[1::2], strict=True):
            chart.draw(place, LIGHT, _limits(charts, chart))
            heading.set_axis_off()
            left = blended_transform_factory(figure.transFigure, heading.transAxes)
            note = fill(chart.note, _HEADING_LINE)
            heading.text(0.015, 1, chart.title, transform=left, va="top", weight="bold").set_in_layout(False)
            below = heading.text(0.015, 0.65, note, transform=left, va="top", color=LIGHT.muted, size="small")
            below.set_in_layout(False)
        save_figure(figure, path, 2 * _DPI)


@dataclass(frozen=True)
class Chart:
    """Means with their intervals, one to a row, first on top, and dots where photographs are few.

    Attributes:
        marks: the rows.
        axis: what is measured.
        title, note: the caption.
        percent: whether the unit is a share of a whole.
        reference: where a line is drawn, or None.
    """

    marks: Sequence[Mark]
    axis: str
    title: str
    note: str
    percent: bool = False
    reference: float | None = 0.0

    def draw(self, axes: Axes, theme: Theme, limits: tuple[float, float]) -> None:
        """Draws it in the colours of a theme."""
        if self.reference is not None:
            axes.axvline(self.reference, color=theme.muted, linewidth=1)
        for place, mark in enumerate(self.marks):
            colour = theme.hues[3] if mark.ours else theme.ink
            spread = place + 0.6 * (np.arange(len(mark.dots)) * _GOLDEN % 1 - 0.5)
            axes.plot(mark.dots, spread, "o", color=colour, alpha=0.3, markersize=3, markeredgewidth=0)
            axes.plot([mark.low, mark.high], [place, place], color=colour, linewidth=2.5 if mark.ours else 1.5)
            axes.plot([mark.estimate], [place], "o", color=colour, markersize=7 if mark.ours else 5)
        axes.set_yticks(range(len(self.marks)), [mark.label for mark in self.marks])
        axes.set_ylim(len(self.marks) - 0.5, -0.5)
        axes.set_xlim(limits)
        axes.set_xlabel(self.axis)
        if self.percent:
            axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # 2.5% would be written as 2%
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(axis="x", alpha=0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelcolor=theme.ink)

    def written(self, value: float) -> str:
        """A value in its unit."""
        return f"{value:.0%}" if self.percent else f"{value:.2f}"


def _limits(charts: Sequence[Chart], chart: Chart) -> tuple[float, float]:
    """Of the axis, the same for all of these charts that are in the unit of this one."""
    own = [one for one in charts if one.percent == chart.percent]
    drawn = [
        value for one in own for mark in one.marks for value in (mark.estimate, mark.low, mark.high, *mark.dots)
    ] + [one.reference for one in own if one.reference is not None]
    known = [value for value in drawn if np.isfinite(value)]
    if not known:
        return 0.0, 1.0
    margin = 0.04 * (max(known) - min(known)) or 0.5
    return min(known) - margin, max(known) + margin


def _associations(findings: Findings) -> tuple[Chart, Chart]:
    statistic = findings.claim.statistic
    named = capitalised(display_name(statistic))
    own = [row for row in findings.associations if row.variant == findings.sweep[0].name]
    perturbations = [_mark(findings, row, row.first) for row in own if _by_perturbation(row, statistic)]
    maps = [_mark(findings, row, row.second) for row in own if _by_map(row, statistic)]
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


def _mark(findings: Findings, row: AssociationRow, name: str) -> Mark:
    label = "the attack" if name == "dissimilarity" else display_name(name)
    ours = row.first == "dissimilarity" and row.second == "gradcam"
    key = association_key(row.statistic, row.first, row.second)
    values = values_by_name(findings.photographs, row.variant, key).values()
    return Mark(label, row.estimate, row.low, row.high, tuple(values), ours)


def _causal(findings: Findings, budget: str, share: float | None = None) -> Chart:
    """The effect of each region; with a `share`, only of those of that area."""
    main = findings.sweep[0].name
    rows = [row for row in findings.causal if (row.variant, row.budget) == (main, budget)]
    marks = [_region(findings, row) for row in rows if share in (None, row.share)]
    note = "rescaled to the SSIM of the full perturbation" if budget == "equal" else "not rescaled"
    return Chart(marks, "share of the gain in margin", "Restricted to a region", note, percent=True, reference=None)


def _region(findings: Findings, row: CausalRow) -> Mark:
    region = region_name(row.region)
    ours = row.region == "top" and row.share == findings.claim.share
    wanted = (row.share, row.region, row.budget)
    gains = [one.gain for one in findings.regions if (one.share, one.region, one.budget) == wanted]
    values = tuple(gain for gain in gains if np.isfinite(gain))
    return Mark(f"{region}, {row.share:.0%}", row.gain, row.low, row.high, values, ours)


def _sweep(findings: Findings) -> list[Chart]:
    """A chart per criterion, a mark per variant."""
    statistic = display_name(findings.claim.statistic)
    empty = {
        "association": Chart((), capitalised(statistic), "Association", "of 1 − SSIM with Grad-CAM, by variant"),
        "control": Chart(
            (), f"difference in {statistic}", "Above the control", "difference in association, by variant"
        ),
        "causal": Chart(
            (),
            "difference in the share of the gain",
            "Above the other region",
            "difference in the share of the gain in margin, by variant",
            percent=True,
        ),
        "multiplier": Chart(
            (),
            f"difference in {statistic}",
            "Multiplier above the control",
            "under a floor, of SSIM's multiplier, by variant",
        ),
    }
    main = findings.sweep[0]
    marks: dict[str, list[Mark]] = {name: [] for name in empty}
    for row in findings.sweep:
        for criterion in row.criteria:
            found, values = criterion.interval, _values(findings, row.name, criterion)
            label = row.name.removeprefix(f"{main.model}, ")
            marks[criterion.name].append(
                Mark(label, found.estimate, found.low, found.high, values, row.name == main.name)
            )
    return [replace(chart, marks=marks[name]) for name, chart in empty.items() if marks[name]]


def _values(findings: Findings, variant: str, criterion: Criterion) -> tuple[float, ...]:
    """What the interval of a criterion is of, photograph by photograph."""
    claim = findings.claim

    def correlated(change: str) -> str:
        return association_key(claim.statistic, change, claim.attention)

    keys = {
        "association": (correlated(claim.change),),
        "control": (correlated("first_order"), correlated(claim.control)),
        "causal": (gain_key("top"), gain_key(claim.region)),
        "multiplier": (correlated("multiplier"), correlated(f"multiplier_{claim.control}")),
    }
    first, *rest = (values_by_name(findings.photographs, variant, key) for key in keys[criterion.name])
    if not rest:
        return tuple(first.values())
    return tuple(value - rest[0][name] for name, value in first.items() if name in rest[0])


def _plotted(chart: Chart, limits: tuple[float, float]) -> Plot:
    def draw(figure: Figure, theme: Theme) -> None:
        figure.set_layout_engine("constrained")
        chart.draw(figure.subplots(), theme, limits)

    described = "; ".join(
        f"{mark.label} {chart.written(mark.estimate)} from {chart.written(mark.low)} to {chart.written(mark.high)}"
        for mark in chart.marks
    )
    dotted = ", and a dot per photograph" if any(mark.dots for mark in chart.marks) else ""
    return plot(
        draw,
        width=_WIDTH,
        height=_FRAME + _ROW * len(chart.marks),
        alt=f"{capitalised(chart.axis)}, means with intervals{dotted}: {described}.",
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
            direction.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.legend(frameon=False, loc="outside upper left", ncols=2)
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
