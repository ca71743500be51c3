"""The association in groups of photographs: planted in one group, alike in both, and groups that are not known."""

import numpy as np
import pytest
import torch
from timm.data import ImageNetInfo

from percep.choices import STRATA
from percep.models.classes import IMAGENET_ANIMALS, IMAGENET_CLASSES, imagenet_categories, imagenet_wordnet_ids
from percep.study import Evidence, Inference, StratumRow
from percep.study.strata import stratum_rows
from tests.support.planted_evidence import CLAIM, COUNT, FAST, ONLY_MEANS, evidence, fields

HALF = COUNT // 2


def planted(*, first: float, second: float, seed: int = 0) -> Evidence:
    """Changes that follow attention, by one slope in the first half of the photographs and by one in the second."""
    attention = fields(seed)
    slopes = torch.tensor([first] * HALF + [second] * HALF)[:, None, None]
    return evidence(slopes * attention + fields(seed + 1), attention, fields(seed + 2))


def rows_of(
    found: Evidence, *splits: str, first_class: int | None = 0, inference: Inference = FAST
) -> list[StratumRow]:
    return stratum_rows(found, CLAIM, splits, first_class, inference)


def test_an_association_of_confident_photographs_is_found_among_them() -> None:
    found = planted(first=0.0, second=2.0)
    found.confidences[:] = [0.3 + 0.01 * i for i in range(HALF)] + [0.7 + 0.01 * i for i in range(HALF)]
    low, high = rows_of(found, "confidence")
    assert (low.group, high.group) == ("at most the median", "above the median")
    assert 0.3 + 0.01 * HALF <= low.threshold <= 0.7 and (low.images, high.images) == (HALF, HALF)
    assert abs(low.estimate) < 0.15 and high.low > 0.8
    assert low.difference == high.difference == pytest.approx(low.estimate - high.estimate)
    assert low.p_value == high.p_value < 0.001


def test_an_association_of_large_regions_is_found_among_them() -> None:
    found = planted(first=0.0, second=2.0)
    positive = fields(0) - fields(0).amin((1, 2), keepdim=True)
    power = torch.tensor([8.0] * HALF + [0.5] * HALF)[:, None, None]  # a monotonic map keeps ranks, and not areas
    found.attention["gradcam"] = positive**power
    found.attention["gradcam"][0] = 0
    low, high = rows_of(found, "attended_area")
    assert (low.images, high.images, low.outside) == (HALF - 1, HALF, 1) or low.images + high.images == COUNT - 1
    assert low.estimate < 0.3 and high.estimate > 0.6 and low.p_value < 0.01 and 0 < low.threshold < 1


def test_animals_are_told_from_things_wherever_classes_begin() -> None:
    for first_class in (0, 1):
        found = planted(first=2.0, second=0.0)
        found.labels[:] = [first_class + 397] * (HALF - 1) + [0 if first_class else None]
        found.labels[HALF:] = [first_class + 398] * HALF
        animals, things = rows_of(found, "class_group", first_class=first_class)
        assert (animals.group, things.group, animals.threshold) == ("animals", "things", None)
        assert (animals.images, things.images, animals.outside) == (HALF - 1, HALF, 1)
        assert animals.low > 0.8 and abs(things.estimate) < 0.15 and animals.p_value < 0.001
        assert rows_of(found, "class_group", first_class=None) == []


def test_what_earlier_versions_did_not_store_makes_no_split() -> None:
    found = planted(first=1.0, second=1.0)
    assert [row.split for row in rows_of(found, *STRATA)] == ["attended_area"] * 2
    found.labels.clear()
    found.confidences.clear()
    assert rows_of(found, "confidence", "class_group") == []


def test_a_group_without_photographs_has_no_test() -> None:
    found = planted(first=1.0, second=1.0)
    found.labels[:] = [3] * COUNT
    animals, things = rows_of(found, "class_group")
    assert animals.images == COUNT and things.images == 0
    assert np.isnan(things.estimate) and np.isnan(things.p_value) and np.isnan(animals.difference)


def test_equal_groups_are_told_apart_at_the_nominal_rate() -> None:
    random = np.random.default_rng(0)
    p_values = []
    for seed in range(200):
        found = planted(first=1.0, second=1.0, seed=1000 + 3 * seed)
        found.confidences[:] = random.random(COUNT).tolist()
        p_values.append(rows_of(found, "confidence", inference=ONLY_MEANS)[0].p_value)
    assert 2 <= (np.array(p_values) <= 0.05).sum() <= 21  # a binomial of 0.05 in all but one of 1,000


def test_animals_are_the_first_classes_by_the_ids_and_definitions_of_wordnet() -> None:
    ids, names = imagenet_wordnet_ids(), imagenet_categories()
    assert len(ids) == IMAGENET_CLASSES and list(ids) == sorted(ids)
    # Nouns are numbered by the lexicographer's files, noun.animal before noun.artifact: one boundary is enough.
    assert names[IMAGENET_ANIMALS - 1] == "puffer" and names[IMAGENET_ANIMALS] == "abacus"
    info = ImageNetInfo("imagenet-1k")
    before, after = (info.index_to_description(i, detailed=True) for i in (IMAGENET_ANIMALS - 1, IMAGENET_ANIMALS))
    assert "fish" in before and "calculator" in after
