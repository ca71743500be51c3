"""The claim, the criteria that would support it, fixed before the run, and the verdict in a sentence."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from percep.explain import Interval
from percep.study.attributions import attribution_title, is_attribution
from percep.study.effects import gains
from percep.study.evidence import Evidence
from percep.study.tables import Correlation, Inference, correlate


@dataclass(frozen=True)
class Claim:
    """What is tested: that a perturbation falls on what the classifier looks at.

    Attributes:
        change: map of the perturbation.
        attention: map of the model.
        statistic: of the two.
        control: of `percep.study.CONTROLS`; its perturbation must agree less with the attention map.
        region: where the perturbation's effect must be less than in the top of the attention map, at an equal budget.
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
    """One of the conditions: three, and a fourth under a floor of SSIM in every window.

    They are not independent: a positive association usually exceeds that of a random control, and at the optimum of a
    ball of mean SSIM a region's gain is, to first order, its share of the budget. Under a floor, where every window's
    budget is used up, the third is independent of the first two.

    Attributes:
        name: "association", "control" or "causal"; under a floor also "multiplier".
        met: whether the interval of the mean lies above 0; None for too few images to reject chance at this level.
        interval: over images.
        first, second: the two means whose difference the interval is of; None for the first condition.
        sentence: the result in words.
    """

    name: str
    met: bool | None
    interval: Interval
    first: float | None
    second: float | None
    sentence: str


def evaluate_criteria(
    claim: Claim,
    evidence: Evidence,
    inference: Inference,
) -> tuple[Criterion, ...]:
    """The criteria over the photographs of the evidence.

    Under a floor 1 - SSIM is nearly constant, and a fourth asks of the multiplier of SSIM what the second asks of
    1 - SSIM: that it agrees with the attention map more than the multiplier of the control does.
    """

    def values(first_name: str, first: Tensor) -> np.ndarray:
        pair = (first_name, claim.attention)
        attention = evidence.attention[claim.attention]
        return correlate(claim.statistic, first, attention, evidence.confounds, pair).values

    what = f"{display_name(claim.statistic)} of {display_name(claim.change)} with {display_name(claim.attention)}"
    associated = _criterion(
        "association",
        f"association above zero ({what})",
        inference.interval(values(claim.change, evidence.changes[claim.change])),
        inference.level,
    )
    controlled = _difference(
        "control",
        f"association of the first-order perturbation above that of a {display_name(claim.control)} gradient in the "
        "same ball",
        values("first_order", evidence.others["first_order"]),
        values(claim.control, evidence.others[claim.control]),
        inference,
    )
    causal = _difference(
        "causal",
        f"effect inside the top {claim.share:.0%} of {display_name(claim.attention)} above that inside a "
        f"{display_name(claim.region)} region of equal area and SSIM (share of the gain in margin)",
        gains(evidence.regions, evidence.names, claim.share, "top", "equal"),
        gains(evidence.regions, evidence.names, claim.share, claim.region, "equal"),
        inference,
    )
    return associated, controlled, causal, *_of_multiplier(claim, evidence, values, inference)


def verdict(criteria: Sequence[Criterion]) -> str:
    """The result in a sentence without its full stop."""
    if any(criterion.met is None for criterion in criteria):
        images = min(criterion.interval.images for criterion in criteria)
        question = "whether the perturbation falls on what the classifier looks at"
        return f"Undecided {question}: {images} photographs are too few"
    met = sum(bool(criterion.met) for criterion in criteria)
    outcome = {0: "does not fall", len(criteria): "falls"}.get(met, "falls in part")
    return f"The perturbation {outcome} on what the classifier looks at: {met} of {len(criteria)} criteria are met"


def display_name(name: str) -> str:
    """The name of a map, region, perturbation or statistic as reports print it."""
    if is_attribution(name):
        return attribution_title(name)
    kind, randomised, stage = name.partition("_randomised_")
    if randomised:
        return f"randomised model {stage}" if kind == "model" else f"{display_name(kind)} of randomised model {stage}"
    return _DISPLAY_NAMES.get(name, name.replace("_", " "))


def region_name(region: str) -> str:
    """The name of a region of causal tests as plots and tables of regions print it."""
    return "top of Grad-CAM" if region == "top" else display_name(region)


def capitalised(text: str) -> str:
    """The text with a capital first letter, the others as they are."""
    return text[:1].upper() + text[1:]


_DISPLAY_NAMES = {
    "ablation": "the loss by ablation",
    "adversarial": "the adversarial image's Grad-CAM",
    "adversarial_new_class": "the adversarial image's Grad-CAM of the new class",
    "another_image": "another photograph's Grad-CAM",
    "appearing": "appearing evidence",
    "contribution": "gradient times perturbation",
    "disappearing": "disappearing evidence",
    "dissimilarity": "1 − SSIM",
    "edges": "an edge map",
    "energy": "energy over the allowance",
    "gain_equal": "share of the gain, equal budget",
    "gain_own": "share of the gain, own budget",
    "gaussian": "a centred Gaussian",
    "iou": "intersection over union",
    "iou_distance": "1 − intersection over union",
    "matched": "texture-matched",
    "new_class": "the new class's Grad-CAM",
    "noise": "Grad-CAM under noise of the same SSIM",
    "partial_spearman": "partial Spearman",
    "pearson": "Pearson",
    "pearson_distance": "1 − Pearson",
    "pgd_l2": "PGD-L2",
    "pgd_linf": "PGD-Linf",
    "phase_shuffled": "phase-shuffled",
    "multiplier": "the multiplier of SSIM",
    "shifted": "shifted, similarly textured",
    "sign_flipped": "sign-flipped",
    "spearman": "Spearman",
    "wrong_class": "a wrong class's Grad-CAM",
}


def _of_multiplier(
    claim: Claim, evidence: Evidence, values: Callable[[str, Tensor], np.ndarray], inference: Inference
) -> tuple[Criterion, ...]:
    """The fourth criterion; none where the control has no multipliers, as without a floor."""
    control = f"multiplier_{claim.control}"
    if control not in evidence.changes:
        return ()
    what = (
        f"association of the multiplier of SSIM with {display_name(claim.attention)} above that of the multiplier of a "
        f"{display_name(claim.control)} gradient ({display_name(claim.statistic)})"
    )
    first, second = (values(name, evidence.changes[name]) for name in ("multiplier", control))
    return (_difference("multiplier", what, first, second, inference),)


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
    # If signs are random, all values are positive with probability 2^-images, and then so is every resample.
    enough = 2.0**-interval.images <= (1 - level) / 2
    met = interval.low > 0 if enough else None
    outcome = "too few photographs" if met is None else ("yes" if met else "no")
    means = "" if first is None or second is None else f"{first:.2f} against {second:.2f}, difference "
    missing = f", {interval.undefined} undefined" if interval.undefined else ""
    sentence = (
        f"{capitalised(what)}: {outcome}, {means}{interval.estimate:.2f} "
        f"[{interval.low:.2f}, {interval.high:.2f}] over {interval.images} photographs{missing}"
    )
    return Criterion(name, met, interval, first, second, sentence)
