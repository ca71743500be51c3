"""The claim and what would support it, fixed before the run, and the verdict in a sentence each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from percep.explain import Interval
from percep.study.causal import RegionRow
from percep.study.tables import Correlation, Inference, correlate, gains


@dataclass(frozen=True)
class Claim:
    """That a perturbation falls on what the classifier looks at, in numbers.

    Attributes:
        change: map of the perturbation.
        attention: map of the model.
        statistic: of the two.
        control: perturbation of the same ball that must agree less.
        region: where the perturbation must do less than in the top of the attention map, at an equal budget.
        share: of the image that the top covers.
    """

    change: str
    attention: str
    statistic: Correlation
    control: str
    region: str
    share: float


@dataclass(frozen=True)
class Criterion:
    """One of the three conditions.

    They are not independent: what is associated at all is above a random control, and at the optimum of a ball of mean
    SSIM a region gains, to first order, what is spent in it. Under a floor, where every window is spent, the third
    stands for itself.

    Attributes:
        name: "association", "control" or "causal".
        met: the interval of the mean lies above 0, and images are enough for that to be unlikely by chance alone; None
            where they are not.
        interval: over images.
        first, second: the two means whose difference the interval is of; None for the first condition.
        sentence: what was found, for people.
    """

    name: str
    met: bool | None
    interval: Interval
    first: float | None
    second: float | None
    sentence: str


def judge(
    claim: Claim,
    names: Sequence[str],
    changes: dict[str, Tensor],
    others: dict[str, Tensor],
    attention: dict[str, Tensor],
    confounds: dict[str, Tensor],
    regions: Sequence[RegionRow],
    inference: Inference,
) -> tuple[Criterion, ...]:
    """The three conditions over the photographs `names`; maps are `(N, h, w)` block means by name."""

    def values(first_name: str, first: Tensor) -> np.ndarray:
        pair = (first_name, claim.attention)
        return correlate(claim.statistic, first, attention[claim.attention], confounds, pair).values

    what = f"{words(claim.statistic)} of {words(claim.change)} with {words(claim.attention)}"
    associated = _criterion(
        "association",
        f"association above zero ({what})",
        inference.interval(values(claim.change, changes[claim.change])),
        inference.level,
    )
    controlled = _difference(
        "control",
        f"association of the first-order perturbation above that of a {words(claim.control)} gradient in the same ball",
        values("first_order", others["first_order"]),
        values(claim.control, others[claim.control]),
        inference,
    )
    causal = _difference(
        "causal",
        f"effect inside the top {claim.share:.0%} of {words(claim.attention)} above that inside a "
        f"{words(claim.region)} region of equal area and SSIM (share of the gain in margin)",
        gains(regions, names, claim.share, "top", "equal"),
        gains(regions, names, claim.share, claim.region, "equal"),
        inference,
    )
    return associated, controlled, causal


def verdict(criteria: Sequence[Criterion]) -> str:
    """The answer in a sentence without its full stop."""
    if any(criterion.met is None for criterion in criteria):
        images = min(criterion.interval.images for criterion in criteria)
        question = "whether the perturbation falls on what the classifier looks at"
        return f"Undecided {question}: {images} photographs are too few"
    met = sum(bool(criterion.met) for criterion in criteria)
    answer = {0: "does not fall", len(criteria): "falls"}.get(met, "falls in part")
    return f"The perturbation {answer} on what the classifier looks at: {met} of {len(criteria)} criteria are met"


def words(name: str) -> str:
    """A map's, region's, perturbation's or statistic's name for people."""
    kind, randomised, stage = name.partition("_randomised_")
    if randomised:
        return f"randomised model {stage}" if kind == "model" else f"{words(kind)} of randomised model {stage}"
    return _WORDS.get(name, name.replace("_", " "))


def capital(text: str) -> str:
    """The text with a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]


_WORDS = {
    "ablation": "the loss by ablation",
    "another_image": "another photograph's Grad-CAM",
    "contribution": "gradient times perturbation",
    "dissimilarity": "1 − SSIM",
    "edges": "an edge map",
    "energy": "energy over the allowance",
    "gaussian": "a centred Gaussian",
    "gradcam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    "iou": "intersection over union",
    "matched": "texture-matched",
    "partial_spearman": "partial Spearman",
    "pearson": "Pearson",
    "pgd_l2": "PGD-L2",
    "pgd_linf": "PGD-Linf",
    "phase_shuffled": "phase-shuffled",
    "price": "the price of SSIM",
    "shifted": "shifted, similarly textured",
    "sign_flipped": "sign-flipped",
    "spearman": "Spearman",
    "wrong_class": "a wrong class's Grad-CAM",
}


def _difference(name: str, what: str, first: np.ndarray, second: np.ndarray, inference: Inference) -> Criterion:
    both = ~np.isnan(first - second)
    means = [float(values[both].mean()) if both.any() else math.nan for values in (first, second)]
    return _criterion(name, what, inference.interval(first - second), inference.level, *means)


def _criterion(
    name: str,
    what: str,
    interval: Interval,
    level: float,
    first: float | None = None,
    second: float | None = None,
) -> Criterion:
    # All values being positive has a chance of 2^-images where signs are a coin's, and then every resample is positive.
    enough = 2.0**-interval.images <= (1 - level) / 2
    met = interval.low > 0 if enough else None
    answer = "too few photographs" if met is None else ("yes" if met else "no")
    means = "" if first is None or second is None else f"{first:.2f} against {second:.2f}, difference "
    missing = f", {interval.undefined} undefined" if interval.undefined else ""
    sentence = (
        f"{capital(what)}: {answer}, {means}{interval.estimate:.2f} "
        f"[{interval.low:.2f}, {interval.high:.2f}] over {interval.images} photographs{missing}"
    )
    return Criterion(name, met, interval, first, second, sentence)
