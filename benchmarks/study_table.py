"""The documentation's tables of a study, from the `summary.json` of `make study`."""

from typing import Any

from percep.study.criteria import display_name, region_name

Row = dict[str, Any]
_OTHER_CHANGES = ("ablation", "contribution", "energy", "multiplier")
_CRITERIA = ("association", "control", "causal", "multiplier")
_STATISTICS = ("partial_spearman", "spearman")


def study_tables(summary: Row) -> str:
    """The verdict, a line per criterion, and tables of variants, perturbations, maps and regions."""
    sentences = "\n".join(f"* {found['sentence']}." for found in summary["variants"][0]["criteria"])
    tables = (_variants(summary), _perturbations(summary), _maps(summary), _regions(summary))
    return "\n\n".join([f"{summary['verdict']}.", sentences, *tables])


def _variants(summary: Row) -> str:
    control = f"multiplier_{summary['claim']['control']}"
    lines = [
        f"| {variant['name']} | {variant['fooled']} of {variant['correct']} | "
        + " | ".join(_criterion(variant, name) for name in _CRITERIA)
        + f" | {_multiplier(summary, variant['name'], 'multiplier')}"
        + f" | {_multiplier(summary, variant['name'], control)} |"
        for variant in summary["variants"]
        if variant["correct"]  # else it has not been begun
    ]
    head = [
        "variant",
        "fooled",
        "association",
        "above the control",
        "effect above the other region",
        "multiplier above the control's",
        "multiplier with Grad-CAM",
        "multiplier of the control",
    ]
    return markdown_table(head, lines)


def _criterion(variant: Row, name: str) -> str:
    found = next((criterion for criterion in variant["criteria"] if criterion["name"] == name), None)
    return "" if found is None else f"{interval(found)}{'' if found['met'] else ', no'}"


def _multiplier(summary: Row, variant: str, name: str) -> str:
    """The association of SSIM's multiplier with Grad-CAM; a mean alone has one multiplier everywhere."""
    wanted = (variant, name, "gradcam", summary["claim"]["statistic"])
    found = [
        row
        for row in summary["associations"]
        if (row["variant"], row["first"], row["second"], row["statistic"]) == wanted and row["estimate"] is not None
    ]
    return interval(found[0]) if found else ""


def _perturbations(summary: Row) -> str:
    rows = [row for row in _main(summary) if row["second"] == "gradcam"]
    names = [name for name in dict.fromkeys(row["first"] for row in rows) if name not in _OTHER_CHANGES]
    return markdown_table(
        ["1 − SSIM of, with Grad-CAM", "partial Spearman", "Spearman"],
        [_line("the attack" if name == "dissimilarity" else display_name(name), rows, "first", name) for name in names],
    )


def _maps(summary: Row) -> str:
    rows = [row for row in _main(summary) if row["first"] == "dissimilarity"]
    names = dict.fromkeys(row["second"] for row in rows)
    return markdown_table(
        ["1 − SSIM of the attack, with", "partial Spearman", "Spearman"],
        [_line(display_name(name), rows, "second", name) for name in names],
    )


def _regions(summary: Row) -> str:
    share = summary["claim"]["share"]
    lines = []
    floors = next((variant["name"] for variant in summary["variants"] if "floor" in variant["name"]), None)
    for variant in (summary["variants"][0]["name"], *([floors] if floors else [])):
        lines += _region_lines(summary, variant, share)
    head = [
        f"variant, restricted to, {share:.0%}",
        "1 − SSIM there",
        "gain in margin, not rescaled",
        "at equal SSIM",
        "still adversarial, at equal SSIM",
    ]
    return markdown_table(head, lines)


def _region_lines(summary: Row, variant: str, share: float) -> list[str]:
    rows = [row for row in summary["causal"] if (row["variant"], row["share"]) == (variant, share)]
    by_budget = {(row["region"], row["budget"]): row for row in rows}
    lines = []
    for region in dict.fromkeys(row["region"] for row in rows):
        own, equal = by_budget[region, "own"], by_budget[region, "equal"]
        gains = [f"{100 * row['gain']:.0f}% [{100 * row['low']:.0f}, {100 * row['high']:.0f}]" for row in (own, equal)]
        label = region_name(region)
        cells = [f"{variant}, {label}", f"{100 * own['mass']:.0f}%", *gains, f"{100 * equal['flipped']:.0f}%"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _main(summary: Row) -> list[Row]:
    name = summary["variants"][0]["name"]
    return [row for row in summary["associations"] if row["variant"] == name]


def _line(label: str, rows: list[Row], side: str, name: str) -> str:
    found = {row["statistic"]: row for row in rows if row[side] == name}
    return f"| {label} | {' | '.join(interval(found[statistic]) for statistic in _STATISTICS)} |"


def interval(row: Row) -> str:
    if row["estimate"] is None:
        return "undefined"
    return f"{row['estimate']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def markdown_table(head: list[str], lines: list[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines])
