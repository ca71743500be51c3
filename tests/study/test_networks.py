"""Two networks on the same photographs: attention that is shared, attention of one's own, and none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from percep.errors import InputError
from percep.study import Claim, Evidence, Inference, NetworkRow, VariantResult, across_networks
from tests.support.planted_evidence import CLAIM, COUNT, FAST, NAMES, ONLY_MEANS, evidence, fields


def across(
    first: Evidence, second: Evidence, inference: Inference = FAST, claim: Claim = CLAIM
) -> dict[tuple[str, str, str], NetworkRow]:
    variants = (VariantResult(f"{name}, mean 0.999", name, found) for name, found in (("a", first), ("b", second)))
    rows = across_networks(*variants, claim, inference)
    return {(row.network, row.relation, row.statistic): row for row in rows}


def pair(shared: Tensor, seed: int, own: float, *, noise: float = 0.5) -> tuple[Evidence, Evidence]:
    """Networks that attend to what is shared and, weighted, to something of their own, and perturbations there."""
    attention = [shared + own * fields(seed + place) for place in (0, 1)]
    changes = [maps + noise * fields(seed + 2 + place) for place, maps in enumerate(attention)]
    first, second = (evidence(change, maps, fields(99)) for change, maps in zip(changes, attention, strict=True))
    return first, second


def test_shared_attention_says_something_of_the_other_network_and_its_own_says_more() -> None:
    rows = across(*pair(fields(0), 1, 1.0))
    for name in ("a", "b"):
        own, other, advantage = (
            rows[name, relation, "partial_spearman"] for relation in ("own", "other", "own - other")
        )
        assert own.low > 0.8 and 0.2 < other.low < other.high < 0.6
        assert advantage.estimate == pytest.approx(own.estimate - other.estimate)
        assert advantage.low > 0.2 and advantage.p_value < advantage.adjusted < 0.001
        assert own.p_value is None and own.adjusted is None
    change, attention = (rows["a and b", relation, "spearman"] for relation in ("change", "attention"))
    assert attention.estimate == pytest.approx(0.5, abs=0.08) and 0.3 < change.estimate < attention.estimate + 0.05


def test_attention_of_ones_own_says_nothing_of_the_other_network() -> None:
    rows = across(*pair(torch.zeros_like(fields(0)), 1, 1.0))
    assert rows["a", "own", "partial_spearman"].low > 0.8
    for key in (("a", "other"), ("b", "other"), ("a and b", "change"), ("a and b", "attention")):
        assert abs(rows[*key, "partial_spearman"].estimate) < 0.1


def test_texture_that_both_perturbations_follow_is_left_out() -> None:
    texture = fields(99)
    first, second = (evidence(texture + fields(k), texture + fields(k + 1), texture) for k in (0, 2))
    rows = across(first, second)
    for relation in ("own", "other"):
        assert rows["a", relation, "spearman"].low > 0.3
        assert abs(rows["a", relation, "partial_spearman"].estimate) < 0.1
    assert rows["a and b", "change", "spearman"].low > 0.3
    assert abs(rows["a and b", "change", "partial_spearman"].estimate) < 0.1


def test_photographs_are_matched_by_name() -> None:
    first, second = pair(fields(0), 1, 1.0)
    order = torch.arange(COUNT - 4).flip(0)  # the second network was fooled on fewer, and tells them in another order
    shuffled = replace(
        second,
        names=[NAMES[i] for i in order.tolist()],
        **{
            kind: {k: maps[order] for k, maps in getattr(second, kind).items()}
            for kind in ("changes", "attention", "confounds")
        },
    )
    kept = replace(
        second,
        names=NAMES[: COUNT - 4],
        **{
            kind: {k: maps[: COUNT - 4] for k, maps in getattr(second, kind).items()}
            for kind in ("changes", "attention", "confounds")
        },
    )
    assert across(first, shuffled) == across(first, kept)
    assert across(first, kept)["a", "other", "spearman"].images == COUNT - 4
    with pytest.raises(InputError, match="no photograph in common"):
        across(first, replace(second, names=[f"other {name}" for name in NAMES]))
    coarse = {name: maps[:, :6] for name, maps in second.changes.items()}
    with pytest.raises(InputError, match="block by block"):
        across(first, replace(second, changes=coarse))


def test_maps_that_are_zero_are_counted() -> None:
    first, second = pair(fields(0), 1, 1.0)
    second.attention["gradcam"][:4] = 0
    rows = across(first, second)
    assert (rows["a", "own", "spearman"].undefined, rows["a", "other", "spearman"].undefined) == (0, 4)
    assert rows["a", "own - other", "spearman"].undefined == 4


def test_attention_that_is_all_shared_is_told_apart_at_the_nominal_rate() -> None:
    p_values, plain = [], replace(CLAIM, statistic="spearman")
    for seed in range(200):
        first, second = pair(fields(1000 + 10 * seed), 1001 + 10 * seed, 1.0)
        change = fields(1000 + 10 * seed) + fields(1009 + 10 * seed)  # follows what both attend to
        first.changes["dissimilarity"] = change
        p_values.append(across(first, second, ONLY_MEANS, plain)["a", "own - other", "spearman"].p_value)
    assert 2 <= (np.array(p_values) <= 0.05).sum() <= 21  # a binomial of 0.05 in all but one of 1,000
