"""The verdict of a run: what is counted, of which photographs, and what is said where there are no labels."""

import math
from dataclasses import replace

import pytest

from percep.report import ImageRow, MinimalRow, console_lines, summarise
from percep.report.common.verdict import accuracy_of, progress, remarks, verdict, warnings
from percep.report.comparison.tables import ComparisonRow, accuracy


def row(name: str, label: int | None = 1, before: int | None = 1, success: bool = True, **others: object) -> ImageRow:
    values = {"min_ssim": 0.75, "mean_ssim": 0.9, "linf": 0.2, "certified": True} | others
    return ImageRow(name, "adversarial", label, predicted_before=before, predicted_after=2, success=success, **values)


def there(name: str, label: int | None, before: int, target: int | None = None) -> ImageRow:
    """A photograph that met the goal to begin with."""
    return replace(row(name, label, before), status="already_adversarial", target=target)


FREE = "no labels given, so nothing is said of accuracy"
CERTIFIED = "all certified from the saved files"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "No photograph was attacked"),
        ([ImageRow("a", "not_finite")], "No photograph was attacked; 1 without a finite prediction"),
        ([row("a")], f"1 of 1 correctly classified photograph fooled, {CERTIFIED}"),
        ([row("a"), row("b", success=False)], f"1 of 2 correctly classified photographs fooled, {CERTIFIED}"),
        ([row("a", success=False)], "0 of 1 correctly classified photograph fooled"),
        # What was misclassified before is no success.
        ([row("a"), there("b", 1, 3)], f"1 of 1 correctly classified photograph fooled, {CERTIFIED}"),
        ([there("b", 1, 3)], "None of 1 labelled photographs was classified correctly to begin with"),
        # Without labels a prediction is neither right nor wrong.
        ([row(str(i), None) for i in range(20)], f"20 of 20 predictions changed; {FREE}; {CERTIFIED}"),
        ([row("a", None, success=False)], f"0 of 1 prediction changed; {FREE}"),
        # Both at once.
        (
            [row("a"), row("b", None), row("c", None, success=False)],
            "1 of 1 correctly classified photograph fooled; "
            f"1 of 2 predictions, of photographs without a label, changed; {CERTIFIED}",
        ),
        # Targets, and photographs of the target class.
        (
            [row("a", target=2), there("b", 2, 2, 2)],
            "1 of 2 correctly classified photographs brought to their target class; "
            f"1 in their target class to begin with; {CERTIFIED}",
        ),
        ([row("a", None, target=2)], f"1 of 1 prediction changed to their target class; {FREE}; {CERTIFIED}"),
        ([row("a", 3, 1, target=2)], "None of 1 labelled photographs was classified correctly to begin with"),
        # What was left out is named by its kind.
        (
            [
                row("a"),
                ImageRow("b", "unreadable: damaged"),
                ImageRow("c", "unlabelled: no label"),
                ImageRow("d", "unlabelled: no class 2000", 2000),
                ImageRow("e", "missing: no photograph", 1, missing=1),
            ],
            f"1 of 1 correctly classified photograph fooled, {CERTIFIED}; "
            "1 unreadable, 2 without a label, 1 label without a photograph",
        ),
        (
            [MinimalRow(**vars(row("a")), found=0.9995, missed=0.9996)],
            "1 of 1 correctly classified photograph fooled, at a median 1 − SSIM of 0.000500 in the saved files",
        ),
    ],
)
def test_the_verdict(rows, words):
    assert verdict(summarise(rows)) == words


def test_a_photograph_without_a_label_is_neither_right_nor_wrong():
    assert row("a", None).correct_before is None and row("a", None).fooled
    assert row("a", 1, None).correct_before is None
    assert row("a", 1, 1).correct_before is True and row("a", 1, 3).correct_before is False
    summary = summarise([row("a", None), row("b", None)])
    counts = ("labelled", "correct_before", "without_label", "successes", "changed", "certified")
    assert [summary[name] for name in counts] == [0, None, 2, 2, 2, 2]
    assert summary["medians"]["min_ssim"] == 0.75  # those of what changed
    summary = summarise([row("a", None), row("b", success=False)])
    assert [summary[name] for name in counts] == [1, 1, 1, 1, 1, 1]


def test_the_worst_of_all_images_is_told_with_its_name_and_place():
    rows = [
        row("a"),
        row("b", min_ssim=0.5, worst_row=3, worst_column=4, success=False),
        row("c", linf=69 / 255),
        row("d", min_ssim=math.nan, linf=math.nan),
        ImageRow("e", "unreadable: damaged"),
    ]
    summary = summarise(rows)
    assert summary["least_ssim"] == {"ssim": 0.5, "name": "b", "row": 3, "column": 4}
    assert summary["largest_change"] == {"levels": 69, "name": "c"}
    assert summarise(rows[3:])["least_ssim"] is summarise(rows[4:])["largest_change"] is None


def test_an_interruption_says_of_how_many():
    assert progress({"images": 400, "planned": 1000}) == "The run was interrupted: 400 of 1000 photographs were done"
    assert progress({"images": 400, "planned": None}) == "The run was interrupted: 400 photographs were done"
    assert progress({"images": 400, "planned": 400}) == progress({"images": 400}) == ""


def test_a_model_at_chance_is_warned_of_where_labels_say_so():
    rows = [row(str(place), 1, 1 if place == 0 else 3) for place in range(100)]
    counts = accuracy_of(1, 100, 0, 1000)
    assert counts["at_chance"] is True
    (warning,) = warnings(summarise(rows) | counts)
    assert warning.startswith("1 of 100 labelled photographs are classified correctly, of 1000 classes: ")
    assert all(cause in warning for cause in ("model.mean", "model.std", "data.first_class"))
    lines = console_lines(summarise(rows) | counts | {"planned": 1000}).splitlines()
    assert len(lines) == 3 and lines[2] == f"warning: {warning}"
    assert lines[1] == "The run was interrupted: 100 of 1000 photographs were done"
    assert all(line.isascii() for line in lines)
    for known in (accuracy_of(80, 100, 0, 1000), accuracy_of(0, 0, 100, 1000), accuracy_of(1, 100, 0, None)):
        assert not known["at_chance"] and warnings(known) == []


def test_a_comparison_says_what_its_labels_are_worth():
    done = ComparisonRow("a", "attacked", predicted_before=1)
    labelled = ComparisonRow("b", "misclassified", label=2, predicted_before=1)
    broken = ComparisonRow("c", "unreadable: damaged", label=2)
    counts = accuracy([done, done, labelled, broken], 4)  # a photograph has a row under every attack
    assert counts == {"labelled": 1, "correct_before": 0, "without_label": 1, "classes": 4, "at_chance": False}
    assert remarks(counts) == [
        "1 of 2 photographs without a label: an attack is to change the prediction, whether it is right or not"
    ]
    (remark,) = remarks(accuracy([done, broken], 4))
    assert remark.startswith("No labels given, so nothing is said of accuracy")
    assert remarks(accuracy([labelled, broken], 4)) == []
