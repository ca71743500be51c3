"""Evidence of a study whose associations are planted: smooth fields, and mixtures of them."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from percep.explain import Interval
from percep.study import Claim, Evidence, Inference, RegionRow
from tests.support.smooth_fields import smooth_fields

COUNT, SIDE = 24, 12
NAMES = [f"photograph {i}" for i in range(COUNT)]
CLAIM = Claim("dissimilarity", "gradcam", "partial_spearman", "random", "matched", 0.2)
FAST = Inference(seed=0, level=0.95, resamples=99)


class _OnlyMeans(Inference):
    """Without bootstraps, for simulations of p-values."""

    def interval(self, values: np.ndarray) -> Interval:
        known = values[~np.isnan(values)]
        return Interval(float(known.mean()), np.nan, np.nan, "none", len(known), len(values) - len(known))


ONLY_MEANS = _OnlyMeans(seed=0, level=0.95, resamples=99)


def fields(seed: int) -> Tensor:
    """`(COUNT, SIDE, SIDE)`, independent for every seed."""
    return smooth_fields(COUNT, SIDE, 1.0, seed)


def evidence(
    change: Tensor, attention: Tensor, texture: Tensor, movement: Mapping[str, Tensor] | None = None
) -> Evidence:
    """Of photographs without a class."""
    return Evidence(
        names=NAMES,
        changes={"dissimilarity": change},
        attention={"gradcam": attention},
        movement=dict(movement or {}),
        confounds={"texture": texture},
        labels=[None] * COUNT,
        new_classes=[None] * COUNT,
        confidences=[None] * COUNT,
    )


def region(name: str, region: str, budget: str, mass: float, gain: float) -> RegionRow:
    """A row of a region of a fifth of the image."""
    return RegionRow(name, 0.2, region, budget, mass, gain, True, True, None)
