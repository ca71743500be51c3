"""The results of a run in sentences, for the console and for the page."""

from collections.abc import Iterable, Mapping
from typing import Any

from percep.report.common.chance_level import AT_CHANCE, at_chance
from percep.report.common.columns import number

_LEFT_OUT = (
    ("unreadable", "{} unreadable", "{} unreadable"),
    ("unlabelled", "{} without a label", "{} without a label"),
    ("missing", "{} label without a photograph", "{} labels without a photograph"),
    ("not_finite", "{} without a finite prediction", "{} without a finite prediction"),
)


_GOAL = "an attack is to change the prediction, whether it is right or not"


def verdict(summary: Mapping[str, Any]) -> str:
    """The result of a run, from `percep.report.summarise`, in a sentence without its full stop.

    Success is counted on photographs that are classified correctly. Where no label was given there is no such thing,
    and the sentence says so: it counts the predictions that changed.
    """
    left_out = _left_out(summary)
    main = "; ".join(_main(summary))
    return f"{main}; {left_out}" if left_out else main


def accuracy_of(correct: int, labelled: int, without_label: int, classes: int | None) -> dict[str, object]:
    """Counts for `remarks` and `warnings`: None stands for what is not known without labels, or without `classes`."""
    return {
        "labelled": labelled,
        "correct_before": correct if labelled else None,
        "without_label": without_label,
        "classes": classes,
        "at_chance": at_chance(correct, labelled, classes) if labelled and classes is not None else None,
    }


def remarks(counts: Mapping[str, Any]) -> list[str]:
    """What a comparison or a study says of labels that are missing, in sentences without their full stops."""
    if not counts["without_label"]:
        return []
    if not counts["labelled"]:
        return [f"No labels given, so nothing is said of accuracy: {_GOAL}"]
    free, all_of_them = counts["without_label"], counts["labelled"] + counts["without_label"]
    return [f"{free} of {all_of_them} photographs without a label: {_GOAL}"]


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """Reasons to doubt the verdict, in sentences without their full stops."""
    if not summary.get("at_chance"):
        return []
    counts = "{correct_before} of {labelled} labelled photographs are classified correctly, of {classes} classes"
    return [f"{counts.format_map(summary)}: {AT_CHANCE}"]


def progress(summary: Mapping[str, Any]) -> str:
    """How many photographs of an interrupted run were done, in a sentence without its full stop; empty if all were."""
    images, planned = summary["images"], summary.get("planned", summary["images"])
    if planned is None:
        return f"The run was interrupted: {images} photographs were done"
    return "" if images >= planned else f"The run was interrupted: {images} of {planned} photographs were done"


def console_lines(summary: Mapping[str, Any]) -> str:
    """Verdict, progress and warnings for a terminal, a line each, in ASCII."""
    return lines_of([verdict(summary), progress(summary)], warnings(summary)).replace("−", "-")


def lines_of(sentences: Iterable[str], warnings: Iterable[str]) -> str:
    """Sentences, and after them warnings, for a terminal, a line each."""
    lines = [*sentences, *(f"warning: {warning}" for warning in warnings)]
    return "\n".join(line for line in lines if line)


def _main(summary: Mapping[str, Any]) -> list[str]:
    correct, free = summary["correct_before"], summary["without_label"]
    if not summary["labelled"] and not free:
        return ["No photograph was attacked"]
    fooled, changed = summary["successes"] - summary["changed"], summary["changed"]
    targeted = bool(summary["targeted"])
    parts = []
    if correct == 0:
        parts.append(f"None of {summary['labelled']} labelled photographs was classified correctly to begin with")
    elif correct is not None:
        plural = "photograph" if correct == 1 else "photographs"
        reached = " brought to their target class" if targeted else " fooled"
        parts.append(f"{fooled} of {correct} correctly classified {plural}{reached}")
    if free:
        plural = "prediction" if free == 1 else "predictions"
        without = "" if correct is None else ", of photographs without a label,"
        reached = " to their target class" if targeted else ""
        parts.append(f"{changed} of {free} {plural}{without} changed{reached}")
    if correct is None:
        parts.append("no labels given, so nothing is said of accuracy")
    if targeted and summary["at_goal"]:
        parts.append(f"{summary['at_goal']} in their target class to begin with")
    how = _how(summary)
    if how and correct is not None and len(parts) == 1:
        return [f"{parts[0]}, {how}"]
    return [*parts, *([how] if how else [])]


def _how(summary: Mapping[str, Any]) -> str:
    """The cost of the successes, or how many are certified."""
    successes, certified = summary["successes"], summary["certified"]
    if not successes:
        return ""
    found = summary.get("one_minus_found")
    if isinstance(found, dict):
        return f"at a median 1 − SSIM of {number(found['median'])} in the saved files"
    return f"{'all' if certified == successes else certified} certified from the saved files"


def _left_out(summary: Mapping[str, Any]) -> str:
    counts = ((summary[name], one if summary[name] == 1 else many) for name, one, many in _LEFT_OUT)
    return ", ".join(words.format(count) for count, words in counts if count)
