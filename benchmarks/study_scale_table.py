"""The documentation's tables of the study at scale, from `benchmarks/results/study-scale.json`."""

from typing import Any

from benchmarks.study_scale import NETWORKS
from benchmarks.study_table import interval, markdown_table, study_tables
from percep.study.criteria import capitalised, display_name, region_name

Row = dict[str, Any]


def scale_tables(result: Row) -> str:
    """What the paper says and what was measured, the study of each network, and what they say of each other."""
    mobile, lite = (result["studies"].get(name) for name in NETWORKS)
    parts = [
        _side_by_side(mobile),
        "### MobileNetV2",
        study_tables(mobile),
        "#### Per unit of 1 − SSIM",
        _per_unit(mobile),
        "#### How attention moves",
        _movement(mobile),
        "#### Who carries the association",
        _strata(mobile),
    ]
    if lite is not None:
        parts += ["### EfficientNet-Lite0, on the same photographs", study_tables(lite)]
        parts += ["### Across networks", _networks(result["networks"])]
    return "\n\n".join([*parts, _credits(result["studies"]), _where(result)])


def _side_by_side(study: Row) -> str:
    """The abstract's three steps beside this project's."""
    fooled = study["variants"][0]["fooled"]
    raw = {
        row["statistic"]: row
        for row in study["associations"]
        if (row["variant"], row["first"], row["second"]) == (study["variants"][0]["name"], "dissimilarity", "gradcam")
    }
    causal = {criterion["name"]: criterion for criterion in study["variants"][0]["criteria"]}
    lines = [
        f"| MobileNetV2, trained on ImageNet | MobileNetV2 with Google's weights, {fooled} photographs of NIPS 2017 |",
        "| SSIM maps are compared with class activation maps | Pearson "
        f"{interval(raw['pearson'])}, Spearman {interval(raw['spearman'])} of 1 − SSIM with Grad-CAM |",
        "| | given texture, edges and the distance from the centre: partial Spearman "
        f"{interval(raw['partial_spearman'])} |",
        "| perturbations change the regions that contribute to the decision | above a random gradient's in the same "
        f"ball by {_difference(causal['control'])}; the top fifth of Grad-CAM above a texture-matched region, at equal "
        f"SSIM, by {_difference(causal['causal'])} of the gain |",
    ]
    return "\n".join(["| the paper's abstract | measured here |", "|---|---|", *lines])


def _difference(criterion: Row) -> str:
    return f"{criterion['estimate']:.2f} [{criterion['low']:.2f}, {criterion['high']:.2f}]"


def _per_unit(study: Row) -> str:
    share = study["claim"]["share"]
    lines = []
    for variant in study["variants"]:
        rows = [
            row
            for row in study["causal"]
            if (row["variant"], row["share"], row["budget"]) == (variant["name"], share, "own")
        ]
        for row in rows:
            label = region_name(row["region"])
            unit = f"{row['per_unit']:.2f} [{row['per_unit_low']:.2f}, {row['per_unit_high']:.2f}]"
            lines.append(f"| {variant['name']}, {label} | {unit} |")
    return markdown_table([f"variant, restricted to, {share:.0%}", "share of the gain per share of 1 − SSIM"], lines)


def _movement(study: Row) -> str:
    lines = [
        f"| {capitalised(row['question'])} | {_maps(row)} | {row['statistic'].replace('_', ' ')} | {interval(row)} "
        f"| {row['images']} |"
        for row in study["movement"]
    ]
    return markdown_table(["question", "maps", "statistic", "mean", "photographs"], lines)


def _maps(row: Row) -> str:
    names = [display_name(name) for name in (row["first"], row["second"]) if name]
    return ", ".join(names)


def _strata(study: Row) -> str:
    lines = [
        f"| {row['split'].replace('_', ' ')}, {row['group']} | {row['images']} | {interval(row)} "
        f"| {row['p_value']:.2g} | {row['adjusted']:.2g} |"
        for row in study["strata"]
    ]
    return markdown_table(["photographs", "number", "association", "p of the difference", "p, Holm"], lines)


def _networks(rows: list[Row]) -> str:
    lines = [
        f"| {row['network']} | {row['relation']} | {display_name(row['statistic'])} | {interval(row)} "
        f"| {'' if row['adjusted'] is None else format(row['adjusted'], '.2g')} |"
        for row in rows
    ]
    return markdown_table(["perturbation of", "with Grad-CAM of", "statistic", "mean", "p, Holm"], lines)


def _credits(studies: dict[str, Row]) -> str:
    """Whose photographs the panels show, as their licence asks."""
    shown = {row["ImageId"]: row for study in studies.values() for row in study["credits"]}
    each = [f"[{row['ImageId']}]({row['OriginalLandingURL']}) by {row['Author']}" for row in shown.values()]
    return f"Photographs in the panels, cut and changed as described, under CC BY 2.0: {', '.join(each)}."


def _where(result: Row) -> str:
    machine = result["machine"]
    return (
        f"{machine['cpu']}, {result['processes']} processes of one thread, torch {machine['versions']['torch']}, "
        f"{machine['date'][:10]} (`python -m benchmarks.study_scale`)."
    )
