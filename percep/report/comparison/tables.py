"""Attacks side by side: every outcome as a table, a summary, and the share of images adversarial at each cost."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from torch import Tensor

from percep.attacks.comparison import Outcome
from percep.report.common.files import save_summary, write_csv
from percep.report.common.panel import Prediction
from percep.report.common.plot import LIGHT
from percep.report.common.verdict import accuracy_of
from percep.report.comparison.curves import Kind, draw_curves
from percep.summaries import by_status

_INFINITE = float("inf")


@dataclass(frozen=True)
class ComparisonRow:
    """One photograph under one attack, or one that was not attacked.

    Attributes:
        name: the photograph's name.
        status: "attacked", "misclassified" (it has a label, which the prediction is not), "already_adversarial" (its
            class is the target), "not_finite", or the problem of a `percep.data.Photograph`.
        label: class index the photograph should have, with its name; None where no label was given.
        predicted_before: the model's prediction on the photograph, with its name, which an untargeted attack is to
            leave.
        target: class index to be reached; None for an untargeted attack.
        outcome: what the attack did; None where there was none.
        missing: how many labels without a photograph the row stands for; 0 for a photograph.
    """

    name: str
    status: str
    label: int | None = None
    label_name: str | None = None
    predicted_before: int | None = None
    predicted_before_name: str | None = None
    target: int | None = None
    outcome: Outcome | None = None
    missing: int = 0


@dataclass(frozen=True)
class ComparedImages:
    """What the pictures of one photograph under one attack are drawn from; tensors are finite.

    Attributes:
        original: `(C, H, W)` in `[0, 1]`, C of 1 or 3.
        adversarial: the 8-bit image the attack ends in, same shape and range.
        before: the prediction on the original.
        after: the prediction on that image.
        target: the name of the class to be reached; None for an untargeted attack.
    """

    original: Tensor = field(repr=False)
    adversarial: Tensor = field(repr=False)
    before: Prediction
    after: Prediction
    target: str | None = None


def write_comparison(path: Path, rows: Sequence[ComparisonRow]) -> None:
    """Writes `compare.csv`: a row each in the order given, its outcome's fields after its own, UTF-8.

    What is unknown, and the infinite cost of an attack without success, is an empty cell.
    """
    own = [each.name for each in fields(ComparisonRow) if each.name != "outcome"]
    results = [each.name for each in fields(Outcome)]
    records = [
        {name: getattr(row, name) for name in own}
        | {name: _finite(getattr(row.outcome, name)) for name in results if row.outcome is not None}
        for row in rows
    ]
    write_csv(path, records, [*own, *results])


def accuracy(rows: Sequence[ComparisonRow], classes: int | None) -> dict[str, object]:
    """What is known of the model's accuracy, as `percep.report.common.verdict` takes it.

    Args:
        rows: of every photograph under every attack.
        classes: of the model, where known.

    Returns:
        `labelled`, photographs with a label and a prediction; `correct_before` of them, None where there is no label;
        `without_label`, those with a prediction and no label; `classes`; `at_chance`.
    """
    photographs = {row.name: row for row in rows if row.predicted_before is not None}.values()
    labelled = [row.label == row.predicted_before for row in photographs if row.label is not None]
    return accuracy_of(sum(labelled), len(labelled), len(photographs) - len(labelled), classes)


def write_comparison_summary(path: Path, rows: Sequence[ComparisonRow], seed: int, classes: int | None = None) -> None:
    """Writes `summary.json`: the number of photographs by status, `accuracy`, a `summary` per attack, the seed and
    `versions()`.

    An infinite cost is null.
    """
    content = {
        "photographs": by_status({row.name: (row.status, row.missing) for row in rows}.values()),
        **accuracy(rows, classes),
        "attacks": [
            {name: _finite(value) for name, value in summary(found).items()} for found in by_attack(rows).values()
        ],
    }
    save_summary(path, content, seed)


def by_attack(rows: Iterable[ComparisonRow]) -> dict[str, list[Outcome]]:
    """The outcomes of each attack, in the order of the rows."""
    found: dict[str, list[Outcome]] = {}
    for row in rows:
        if row.outcome is not None:
            found.setdefault(row.outcome.attack, []).append(row.outcome)
    return found


def names_done(rows: Sequence[ComparisonRow], attacks: int) -> set[str]:
    """The photographs that all of so many attacks have done, or that are not attacked."""
    counts = Counter(row.name for row in rows)
    done = (row for row in rows if row.outcome is None or counts[row.name] == attacks)
    return {row.name for row in done if not row.missing}


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """One attack in a line; a median over images counts those without success as infinite."""
    floors = [outcome.floor_success for outcome in outcomes if outcome.floor_success is not None]
    return {
        "attack": outcomes[0].attack,
        "origin": outcomes[0].origin,
        "images": len(outcomes),
        "float_success": _share(outcome.float_cost for outcome in outcomes),
        "saved_success": _share(outcome.saved_cost for outcome in outcomes),
        "resaved_success": _share(outcome.resaved_cost for outcome in outcomes),
        "floor_success": sum(floors) / len(floors) if floors else None,
        "float_cost": median(outcome.float_cost for outcome in outcomes),
        "saved_cost": median(outcome.saved_cost for outcome in outcomes),
        "resaved_cost": median(outcome.resaved_cost for outcome in outcomes),
        "gradient_calls": max(outcome.gradient_calls for outcome in outcomes),
        "forward_calls": max(outcome.forward_calls for outcome in outcomes),
        "seconds": median(outcome.seconds for outcome in outcomes),
    }


def ranked(summaries: Iterable[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Summaries, the cheapest resaved images first; among equals by their number, then by the cost as saved."""
    return sorted(
        summaries,
        key=lambda row: (_number(row["resaved_cost"]), -_number(row["resaved_success"]), _number(row["saved_cost"])),
    )


def table(summaries: Sequence[Mapping[str, object]]) -> str:
    """Summaries in Markdown, the cheapest saved images first."""
    lines = [
        "| attack | float: success, 1 - MSSIM | as saved | saved with percep's rounding | at the floor | gradients |",
        "|---|---|---|---|---|---|",
    ]
    for row in ranked(summaries):
        pairs = [
            f"{100 * _number(row[f'{kind}_success']):.0f}%, {_cost(_number(row[f'{kind}_cost']))}"
            for kind in ("float", "saved", "resaved")
        ]
        floor = "" if row["floor_success"] is None else f"{100 * _number(row['floor_success']):.0f}%"
        lines.append(f"| {row['attack']} | {' | '.join(pairs)} | {floor} | {row['gradient_calls']} |")
    return "\n".join(lines)


def save_curves(path: Path, outcomes: Mapping[str, Sequence[Outcome]], gradients: int) -> None:
    """Success against 1 - MSSIM on a logarithmic axis, a PNG: as saved, and saved with percep's rounding."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained", sharex=True, sharey=True)
    kinds: tuple[tuple[Kind, str], ...] = (
        ("saved_cost", "rounded to 8 bits"),
        ("resaved_cost", "8 bits with percep's rounding"),
    )
    for axes, (kind, title) in zip(panels, kinds, strict=True):
        draw_curves(axes, outcomes, kind, LIGHT)
        axes.set_title(f"{title}, {gradients} gradients", fontsize=10)
    panels[0].set_ylabel("share of images adversarial")
    handles: dict[str, Artist] = {}
    for axes in panels:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _share(costs: Iterable[float]) -> float:
    values = list(costs)
    return sum(cost < _INFINITE for cost in values) / len(values)


def _finite(value: object) -> object:
    return None if value == _INFINITE else value


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _cost(value: float) -> str:
    return "-" if value == _INFINITE else f"{value:.1e}"
