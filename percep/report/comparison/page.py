"""The report of a comparison: which attack is cheapest, by how much, and what each did to every photograph."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from percep.attacks.comparison import OURS, Outcome
from percep.report.common.columns import UNKNOWN, Column, number, words, yes_or_no
from percep.report.common.embedded import ssim_legend
from percep.report.common.page import Facts, save_page
from percep.report.common.plot import Plot, Theme, plot
from percep.report.common.verdict import progress, remarks, warnings
from percep.report.comparison.curves import Kind, draw_curves, line_style
from percep.report.comparison.gallery import GALLERY_LIMIT, ComparisonExhibit, ComparisonGallery
from percep.report.comparison.tables import ComparisonRow, accuracy, by_attack, names_done, ranked, summary

Summary = Mapping[str, Any]

_PLOT = (480, 360)
_KEY = (44, 14)


def save_comparison_report(
    path: Path,
    facts: Facts,
    rows: Sequence[ComparisonRow],
    gallery: ComparisonGallery,
    attacks: Sequence[str],
    classes: int | None = None,
) -> None:
    """Writes the page: verdict, attacks, curves, gallery, a table that sorts, and how to repeat the run.

    Attacks are compared on the photographs that all of them have done, which matters when a run is interrupted.

    Args:
        path: the file to write.
        facts: of the run.
        rows: of every photograph under every attack, in order.
        gallery: their pictures.
        attacks: the names of all attacks of the run.
        classes: of the model, where known.
    """
    known = accuracy(rows, classes)
    done = names_done(rows, len(attacks))
    found = by_attack(row for row in rows if row.name in done)
    summaries = ranked(summary(outcomes) for outcomes in found.values())
    order = {str(row["attack"]): place for place, row in enumerate(summaries)}
    exhibits = {name: _ranked(exhibit, order) for name, exhibit in gallery.exhibits.items()}
    attacked = len({row.name for row in rows if row.outcome is not None})
    findings = _findings(rows)
    save_page(
        path,
        "comparison.html",
        facts,
        **_attack_section(found, summaries),
        warnings=warnings(known),
        remarks=remarks(known),
        progress=progress({"images": len(done), "planned": facts.planned}),
        figures=_figures(rows, found, summaries),
        exhibits=exhibits,
        omitted=attacked - len(exhibits) if len({row.name for row in rows}) > GALLERY_LIMIT else 0,
        attacked=attacked,
        legends=[ssim_legend()],
        findings=findings,
        rows=rows,
        columns=(*_names(rows), *findings),
        anchors={name: f"photograph-{place}" for place, name in enumerate(exhibits, start=1)},
    )


def _ranked(exhibit: ComparisonExhibit, order: Mapping[str, int]) -> ComparisonExhibit:
    """Its versions in the order of the attacks; those that are not ranked come last."""
    versions = sorted(exhibit.versions.items(), key=lambda version: order.get(version[0], len(order)))
    return replace(exhibit, versions=dict(versions))


def _attack_section(found: Mapping[str, Sequence[Outcome]], summaries: Sequence[Summary]) -> dict[str, Any]:
    """What the page says and draws of the attacks, in the order of their summaries."""
    ranking = [str(row["attack"]) for row in summaries]
    return {
        "verdict": comparison_verdict(summaries),
        "rounded": _rounded(summaries),
        "summaries": summaries,
        "attack_columns": _attack_columns(summaries),
        "plots": _plots({attack: found[attack] for attack in ranking}),
        "key": [(attack, _key(attack)) for attack in ranking],
    }


def comparison_verdict(summaries: Sequence[Summary]) -> str:
    """Which attack is cheapest on saved images, in a sentence without its full stop.

    Args:
        summaries: of the attacks on the same photographs, `ranked`.
    """
    if not summaries:
        return "No photograph has been under every attack"
    best, cost = summaries[0], summaries[0]["resaved_cost"]
    over = _photographs(best["images"])
    first = [row for row in summaries if _standing(row) == _standing(best)]
    names = _listed([row["attack"] for row in first])
    if best["resaved_success"] == 0:
        return f"No attack succeeded on any of {over} as a saved image"
    if len(summaries) == 1:
        succeeded = f"{best['attack']} succeeded on {_successes(best)} of {over} as saved images"
        return succeeded if cost == math.inf else f"{succeeded}, at a median 1 − mean SSIM of {_cost(cost)}"
    if cost == math.inf:
        most = f"{names} succeeded on most, {_successes(best)}"
        sentence = f"No attack succeeded on more than half of {over} as saved images: {most}"
    elif len(first) > 1:
        sentence = f"{names} are equally cheap on saved images: a median 1 − mean SSIM of {_cost(cost)} over {over}"
    else:
        second = summaries[1]
        against = (
            "and no other attack succeeded on more than half of them"
            if second["resaved_cost"] == math.inf
            else f"against {_cost(second['resaved_cost'])} for the next best, {second['attack']}"
        )
        sentence = (
            f"{names} is cheapest on saved images: a median 1 − mean SSIM of {_cost(cost)} over {over}, {against}"
        )
    return sentence + _our_place(summaries, told=max(len(first), 2))


def _our_place(summaries: Sequence[Summary], told: int) -> str:
    """Where percep stands, unless it is among the first `told`."""
    places = [place for place, row in enumerate(summaries) if row["attack"] == OURS]
    if not places or places[0] < told or summaries[0]["resaved_cost"] == math.inf:
        return ""
    cost = summaries[places[0]]["resaved_cost"]
    at = "with no more than half of them" if cost == math.inf else f"at {_cost(cost)}"
    return f"; {OURS} is number {places[0] + 1} of {len(summaries)}, {at}"


def _standing(row: Summary) -> tuple[float, float]:
    """What decides between attacks; the number of successes counts where the median is infinite."""
    cost = row["resaved_cost"]
    return cost, row["resaved_success"] if cost == math.inf else 0


def _rounded(summaries: Sequence[Summary]) -> str:
    """The cheapest attack without percep's rounding; empty where none succeeded on more than half."""
    if not summaries:
        return ""
    best = min(summaries, key=lambda row: row["saved_cost"])
    return "" if best["saved_cost"] == math.inf else f"{best['attack']}, at {_cost(best['saved_cost'])}"


def _figures(
    rows: Sequence[ComparisonRow], found: Mapping[str, Sequence[Outcome]], summaries: Sequence[Summary]
) -> list[tuple[str, str]]:
    left_out = len({row.name for row in rows if row.outcome is None and not row.missing})
    missing = sum(row.missing for row in rows)
    aside = [("Not attacked", f"{left_out}")] if left_out else []
    aside += [("Labels without a photograph", f"{missing}")] if missing else []
    if not summaries:
        return [("Photographs", "0"), *aside]
    best = summaries[0]
    each = zip(*found.values(), strict=True)
    wins = [min(outcomes, key=lambda outcome: outcome.resaved_cost) for outcomes in each]
    name = best["attack"]
    mine = sum(
        outcome.resaved_cost == least.resaved_cost < math.inf for outcome, least in zip(found[name], wins, strict=True)
    )
    ratio = best["resaved_cost"] / summaries[1]["resaved_cost"] if len(summaries) > 1 else math.nan
    return [
        ("Photographs", f"{best['images']}"),
        *aside,
        ("Cheapest", name),
        ("Cost against the next best's", UNKNOWN if math.isnan(ratio) else f"{ratio:#.2g} ×"),
        ("Cheapest on", f"{mine} of {best['images']}"),
        ("Adversarial on", f"{_successes(best)} of {best['images']}"),
    ]


def _plots(found: Mapping[str, Sequence[Outcome]]) -> list[Plot]:
    """Success against cost, simply rounded and with percep's rounding, on the same axes."""
    kinds: tuple[tuple[Kind, str, str], ...] = (
        ("saved_cost", "Saved", "rounded to the nearest 8-bit levels"),
        ("resaved_cost", "Resaved", "8 bits with percep's rounding"),
    )
    costs = [getattr(outcome, kind) for kind, _, _ in kinds for outcomes in found.values() for outcome in outcomes]
    finite = [cost for cost in costs if cost < math.inf]
    if not finite:
        return []
    limits = (min(finite) / 1.5, max(finite) * 1.5)
    return [_plot(found, kind, title, note, limits) for kind, title, note in kinds]


def _plot(
    found: Mapping[str, Sequence[Outcome]], kind: Kind, title: str, note: str, limits: tuple[float, float]
) -> Plot:
    def draw(figure: Figure, theme: Theme) -> None:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        draw_curves(axes, found, kind, theme)
        axes.set(xlim=limits, ylim=(0, 1.03), ylabel="photographs adversarial")
        axes.yaxis.set_major_formatter(PercentFormatter(1))

    width, height = _PLOT
    ends = [(name, [getattr(outcome, kind) for outcome in outcomes]) for name, outcomes in found.items()]
    shares = [f"{name} {sum(cost < math.inf for cost in costs)} of {len(costs)}" for name, costs in ends]
    alt = f"Share of photographs adversarial against 1 − mean SSIM, {note}. At the largest cost: {', '.join(shares)}."
    return plot(draw, width=width, height=height, alt=alt, title=title, note=note)


def _key(attack: str) -> Plot:
    """A piece of the attack's line; its name stands beside it."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 2), ylim=(-1, 1))
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **line_style(attack, theme))

    width, height = _KEY
    return plot(draw, width=width, height=height, alt="")


def _attack_columns(summaries: Sequence[Summary]) -> tuple[Column, ...]:
    def column(title: str, name: str, write: Any = number) -> Column:
        return Column(title, lambda row: row[name], write, numeric=True)

    floored = any(row["floor_success"] is not None for row in summaries)
    return (
        Column("Attack", lambda row: row["attack"]),
        column("Float success", "float_success", _percent),
        column("Float cost", "float_cost", _cost),
        column("Saved success", "saved_success", _percent),
        column("Saved cost", "saved_cost", _cost),
        column("Resaved success", "resaved_success", _percent),
        column("Resaved cost", "resaved_cost", _cost),
        *([column("At the floor", "floor_success", _percent)] if floored else []),
        column("Gradients", "gradient_calls"),
        column("Forward passes", "forward_calls"),
        column("Seconds", "seconds"),
    )


def _names(rows: Sequence[ComparisonRow]) -> tuple[Column, ...]:
    targeted = any(row.target is not None for row in rows)
    return (
        Column("Photograph", lambda row: row.name),
        Column("Label", lambda row: row.label_name),
        Column("Before", lambda row: row.predicted_before_name),
        *([Column("Target", lambda row: row.target, numeric=True)] if targeted else []),
        Column("Attack", lambda row: row.outcome and row.outcome.attack),
        Column("Status", lambda row: row.status, words),
    )


def _findings(rows: Sequence[ComparisonRow]) -> tuple[Column, ...]:
    """What came of an attack on a photograph."""

    def column(title: str, name: str, write: Any = number) -> Column:
        return Column(title, lambda row: row.outcome and getattr(row.outcome, name), write, numeric=True)

    floored = any(row.outcome is not None and row.outcome.floor_success is not None for row in rows)
    survives = Column("At the floor", lambda row: row.outcome and row.outcome.floor_success, yes_or_no)
    return (
        column("Float cost", "float_cost", _cost),
        column("Saved cost", "saved_cost", _cost),
        column("Resaved cost", "resaved_cost", _cost),
        *([survives] if floored else []),
        column("Gradients", "gradient_calls"),
        column("Forward passes", "forward_calls"),
        column("Seconds", "seconds"),
    )


def _cost(value: float) -> str:
    return UNKNOWN if value == math.inf else f"{value:.2e}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _successes(row: Summary) -> int:
    return round(row["resaved_success"] * row["images"])


def _photographs(count: int) -> str:
    return f"{count} photograph{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
