"""How attention moves, and where the perturbation lies: planted, confounded, absent and undefined."""

import numpy as np
import pytest
from torch import Tensor

from percep.study import Evidence, Inference
from percep.study.displacement import (
    DISTANCE,
    OVERLAP,
    PARTS,
    PLACE,
    MovementRow,
    movement_comparisons,
    movement_rows,
)
from percep.study.tables import comparison_rows
from tests.support.planted_evidence import CLAIM, COUNT, FAST, NAMES, ONLY_MEANS, evidence, fields, region


def moved(seed: int, far: float, near: float) -> dict[str, Tensor]:
    """Grad-CAM of an adversarial image that moves this far and of a noisy one; evidence that is independent of it."""
    attention = fields(seed)
    return {
        "adversarial": attention + far * fields(seed + 1),
        "noise": attention + near * fields(seed + 2),
        "adversarial_new_class": fields(seed + 3),
        "appearing": fields(seed + 4),
        "disappearing": fields(seed + 5),
    }


def rows_of(found: Evidence) -> dict[tuple[str, str, str, str], MovementRow]:
    return {(row.question, row.first, row.second, row.statistic): row for row in movement_rows(found, CLAIM, FAST)}


def compared(found: Evidence, inference: Inference = FAST) -> dict[tuple[str, str, str], float]:
    rows = comparison_rows(movement_comparisons(found, CLAIM), inference)
    return {(row.question, row.first, row.second): row.p_value for row in rows}


def test_an_attack_that_moves_attention_further_than_noise_is_found() -> None:
    found = evidence(fields(7), fields(0), fields(9), moved(0, 2.0, 0.5))
    rows = rows_of(found)
    distance = [rows[DISTANCE, "gradcam", name, "pearson_distance"].estimate for name in ("adversarial", "noise")]
    # The correlation of a with a + s b is 1 / sqrt(1 + s^2).
    assert distance == pytest.approx([1 - 1 / np.sqrt(5), 1 - 1 / np.sqrt(1.25)], abs=0.06)
    assert rows[DISTANCE, "gradcam", "adversarial_new_class", "pearson_distance"].estimate == pytest.approx(1, abs=0.1)
    tests = compared(found)
    for statistic in ("1 − Pearson", "1 − intersection over union"):
        assert tests[f"how far Grad-CAM moves, {statistic}", "adversarial", "noise"] < 0.001
    assert rows[DISTANCE, "gradcam", "noise", "iou_distance"].share == 0.2


def test_a_perturbation_lies_where_evidence_appears_and_not_where_it_was() -> None:
    movement, attention = moved(0, 1.0, 1.0), fields(0)
    found = evidence(movement["appearing"] + 0.5 * fields(8), attention, fields(9), movement)
    rows = rows_of(found)
    assert rows[PLACE, "dissimilarity", "appearing", "partial_spearman"].low > 0.7
    for place in ("gradcam", "disappearing"):
        row = rows[PLACE, "dissimilarity", place, "partial_spearman"]
        assert abs(row.estimate) < 0.15 and row.images == COUNT
    tests = compared(found)
    question = "Partial Spearman with 1 − SSIM, by evidence"
    assert tests[question, "gradcam", "appearing"] < 0.001 and tests[question, "disappearing", "appearing"] < 0.001
    assert tests[question, "gradcam", "disappearing"] > 0.01
    assert not any(key[1] == "energy" for key in rows)  # it was not measured


def test_a_confound_of_both_is_left_out() -> None:
    texture, movement = fields(9), moved(0, 1.0, 1.0)
    movement["appearing"] = texture + fields(10)
    found = evidence(texture + fields(8), fields(0), texture, movement)
    rows = rows_of(found)
    assert rows[PLACE, "dissimilarity", "appearing", "spearman"].low > 0.3
    assert abs(rows[PLACE, "dissimilarity", "appearing", "partial_spearman"].estimate) < 0.1


def test_parts_are_kept_at_both_budgets_and_overlap() -> None:
    movement = moved(0, 1.0, 1.0)
    movement["appearing"] = fields(0)  # the same place as the label's evidence
    found = evidence(fields(7), fields(0), fields(9), movement)
    gains = {("top", "own"): 0.4, ("top", "equal"): 0.6, ("appearing", "own"): 0.3, ("appearing", "equal"): 0.5}
    found.regions.extend(region(name, *key, 0.3, gain) for name in NAMES for key, gain in gains.items())
    rows = rows_of(found)
    for (kind, budget), gain in gains.items():
        assert rows[PARTS, kind, "", f"gain_{budget}"].estimate == pytest.approx(gain)
    assert rows[OVERLAP, "gradcam", "appearing", "iou"].estimate == 1


def test_maps_that_are_zero_are_undefined_and_counted() -> None:
    movement = moved(0, 1.0, 1.0)
    movement["adversarial"][:5] = 0
    movement["appearing"][:3] = 0
    rows = rows_of(evidence(fields(7), fields(0), fields(9), movement))
    distance = rows[DISTANCE, "gradcam", "adversarial", "iou_distance"]
    assert (distance.images, distance.undefined) == (COUNT - 5, 5)
    assert rows[PLACE, "dissimilarity", "appearing", "partial_spearman"].undefined == 3
    assert rows[OVERLAP, "gradcam", "appearing", "iou"].undefined == 3


def test_a_study_without_these_maps_has_no_such_table() -> None:
    some = {name: maps[:5] for name, maps in moved(0, 1.0, 1.0).items()}  # begun by a version without, and continued
    for found in (evidence(fields(7), fields(0), fields(9)), evidence(fields(7), fields(0), fields(9), some)):
        assert movement_rows(found, CLAIM, FAST) == [] and movement_comparisons(found, CLAIM) == []


def test_noise_that_moves_attention_as_far_is_told_apart_at_the_nominal_rate() -> None:
    p_values = []
    for seed in range(200):
        attention = fields(1000 + 3 * seed)
        kept = {name: attention + fields(1001 + 3 * seed + k) for k, name in enumerate(("adversarial", "noise"))}
        found = evidence(attention, attention, attention, kept)
        found.changes.clear()
        p_values += list(compared(found, ONLY_MEANS).values())[:1]
    assert 2 <= (np.array(p_values) <= 0.05).sum() <= 21  # a binomial of 0.05 in all but one of 1,000
