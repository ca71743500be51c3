"""The share of images adversarial at each cost, a line per attack."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from percep.attacks.comparison import OURS, ROUNDING, Outcome, success_curve
from percep.choices import BASELINES
from percep.report.common.plot import Theme

Kind = Literal["float_cost", "saved_cost", "resaved_cost"]
_MARKERS = "os^vDPX<>hp"
_MARKED = 5


def line_style(attack: str, theme: Theme) -> dict[str, Any]:
    """How an attack is drawn: colour and marker are its baseline's; one that rounds inside is dashed and hollow.

    There may be more baselines than hues: these begin anew with other markers, so that as many baselines as there are
    pairs of the two can be told apart.
    """
    if attack == OURS:
        return {"color": theme.ink, "linewidth": 2.75}
    rounding = attack.endswith(ROUNDING)
    place = BASELINES.index(attack.removesuffix(ROUNDING))
    turn, hue = divmod(place, len(theme.hues))
    colour = theme.hues[hue]
    return {
        "color": colour,
        "marker": _MARKERS[(hue + turn) % len(_MARKERS)],
        "markersize": 5,
        "markerfacecolor": "none" if rounding else colour,
        "linestyle": (0, (4, 2)) if rounding else "-",
        "linewidth": 1.25,
    }


def draw_curves(axes: Axes, outcomes: Mapping[str, Sequence[Outcome]], kind: Kind, theme: Theme) -> None:
    """A step for each image that an attack succeeds on, on a logarithmic axis; an attack without success is absent."""
    for place, (name, rows) in enumerate(outcomes.items()):
        costs, shares = success_curve([getattr(row, kind) for row in rows])
        if costs:
            spacing = max(1, len(costs) // _MARKED)
            axes.step(
                [costs[0], *costs],
                [0.0, *shares],
                where="post",
                label=name,
                markevery=(1 + place % spacing, spacing),
                zorder=3 if name == OURS else 2,
                **line_style(name, theme),
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda cost, _: f"{cost:.0e}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("1 - mean SSIM of the saved image")
    axes.grid(alpha=0.5)
