"""The documentation's tables of a study, from the `summary.json` of `make study`."""

from typing import Any

from percep.study.criteria import words

Row = dict[str, Any]
_OTHER_CHANGES = ("ablation", "contribution", "energy", "price")
_STATISTICS = ("partial_spearman", "spearman")


def study_tables(summary: Row) -> str:
    """The verdict, a line per criterion, and tables of variants, perturbations, maps and regions."""
    sentences = "\n".join(f"* {found['sentence']}." for found in summary["variants"][0]["criteria"])
    tables = (_variants(summary), _perturbations(summary), _maps(summary), _regions(summary))
    return "\n\n".join([f"{summary['verdict']}.", sentences, *tables])


def _variants(summary: Row) -> str:
    random = f"price_{summary['claim']['control']}"
    lines = [
        f"| {variant['name']} | {variant['turned']} of {variant['correct']} | "
        + " | ".join(f"{_interval(found)}{'' if found['met'] else ', no'}" for found in variant["criteria"])
        + f" | {_price(summary, variant['name'], 'price')} | {_price(summary, variant['name'], random)} |"
        for variant in summary["variants"]
    ]
    head = [
        "variant",
        "turned",
        "association",
        "above the control",
        "effect above the other region",
        "price with Grad-CAM",
        "price of the control",
    ]
    return _table(head, lines)


def _price(summary: Row, variant: str, price: str) -> str:
    """The association of the price of SSIM with Grad-CAM; a mean alone has one price everywhere."""
    wanted = (variant, price, "gradcam", summary["claim"]["statistic"])
    found = [
        row
        for row in summary["associations"]
        if (row["variant"], row["first"], row["second"], row["statistic"]) == wanted and row["estimate"] is not None
    ]
    return _interval(found[0]) if found else ""


def _perturbations(summary: Row) -> str:
    rows = [row for row in _main(summary) if row["second"] == "gradcam"]
    names = [name for name in dict.fromkeys(row["first"] for row in rows) if name not in _OTHER_CHANGES]
    return _table(
        ["1 − SSIM of, with Grad-CAM", "partial Spearman", "Spearman"],
        [_line("the attack" if name == "dissimilarity" else words(name), rows, "first", name) for name in names],
    )


def _maps(summary: Row) -> str:
    rows = [row for row in _main(summary) if row["first"] == "dissimilarity"]
    names = dict.fromkeys(row["second"] for row in rows)
    return _table(
        ["1 − SSIM of the attack, with", "partial Spearman", "Spearman"],
        [_line(words(name), rows, "second", name) for name in names],
    )


def _regions(summary: Row) -> str:
    share = summary["claim"]["share"]
    lines = []
    floors = next((variant["name"] for variant in summary["variants"] if "floor" in variant["name"]), None)
    for variant in (summary["variants"][0]["name"], *([floors] if floors else [])):
        lines += _region_lines(summary, variant, share)
    head = [
        f"variant, kept inside, {share:.0%}",
        "1 − SSIM there",
        "gain in margin, as it is",
        "at equal SSIM",
        "still adversarial, at equal SSIM",
    ]
    return _table(head, lines)


def _region_lines(summary: Row, variant: str, share: float) -> list[str]:
    rows = [row for row in summary["causal"] if (row["variant"], row["share"]) == (variant, share)]
    kept = {(row["region"], row["budget"]): row for row in rows}
    lines = []
    for region in dict.fromkeys(row["region"] for row in rows):
        own, equal = kept[region, "own"], kept[region, "equal"]
        gains = [f"{100 * row['gain']:.0f}% [{100 * row['low']:.0f}, {100 * row['high']:.0f}]" for row in (own, equal)]
        label = "top of Grad-CAM" if region == "top" else words(region)
        cells = [f"{variant}, {label}", f"{100 * own['mass']:.0f}%", *gains, f"{100 * equal['flipped']:.0f}%"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _main(summary: Row) -> list[Row]:
    name = summary["variants"][0]["name"]
    return [row for row in summary["associations"] if row["variant"] == name]


def _line(label: str, rows: list[Row], side: str, name: str) -> str:
    found = {row["statistic"]: row for row in rows if row[side] == name}
    return f"| {label} | {' | '.join(_interval(found[statistic]) for statistic in _STATISTICS)} |"


def _interval(row: Row) -> str:
    if row["estimate"] is None:
        return "undefined"
    return f"{row['estimate']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _table(head: list[str], lines: list[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines])
