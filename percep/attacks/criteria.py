"""What an attack maximises, and when it has succeeded."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from percep.choices import Loss
from percep.errors import InputError

GradientFunction = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""`(images, labels, targets)` to what is to be increased, `(B,)`, and its gradients `(B, C, H, W)`."""

_TINY = 1e-12
# How far from 1 probabilities may add up to that were computed in half precision.
_ROUNDING = 1e-2


def are_probabilities(outputs: Tensor) -> Tensor:
    """`(B,)` bool: rows of `(B, K)` outputs that are not negative and add up to 1, up to half precision's rounding."""
    return (outputs >= 0).all(1) & ((outputs.sum(1) - 1).abs() <= _ROUNDING)


def scores(outputs: Tensor, distributed: Tensor) -> Tensor:
    """`(B, K)` logits of a model's outputs: of rows of probabilities their logarithms, other rows as they are.

    The logarithm of a softmax is its logits less a number that no margin, cross-entropy or ratio of differences sees.
    It keeps the gradient that a softmax loses close to 0 and 1, until a probability is below the dtype's range.

    Args:
        outputs: `(B, K)`.
        distributed: `(B,)` bool, of which images the model's outputs are probabilities.
    """
    if not bool(distributed.any()):
        return outputs
    logarithms = outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
    return torch.where((distributed & (outputs >= 0).all(1))[:, None], logarithms, outputs)


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None, top_k: int = 1) -> Tensor:
    """`(B,)`, positive where the goal is met: the label is not among the k best classes, or the target is.

    Untargeted it is the k-th best other logit minus the label's, targeted the target's minus the k-th best other.

    Args:
        logits: `(B, K)`, K > top_k.
        labels, targets: `(B,)` class indices.
        top_k: k.
    """
    goal = labels if targets is None else targets
    chosen = logits.gather(1, goal[:, None]).squeeze(1)
    others = logits.scatter(1, goal[:, None], -torch.inf)
    runner_up = others.amax(1) if top_k == 1 else others.topk(top_k, 1).values[:, -1]
    return runner_up - chosen if targets is None else chosen - runner_up


def logit_difference(logits: Tensor, labels: Tensor, runners_up: Tensor) -> Tensor:
    """`(B,)`: a runner-up's logit minus the label's; `runners_up` are `(B,)` class indices."""
    return (logits.gather(1, runners_up[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def difference_of_logits_ratio(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """The margin over a range of the logits, `(B,)`, so that the model's scale does not matter.

    Croce and Hein, ICML 2020, equations 6 and 7: the range is best minus third best, and targeted best minus
    the mean of the third and the fourth.

    Raises:
        InputError: fewer than three classes, or four with targets.
    """
    least, words = (3, "three") if targets is None else (4, "four")
    if logits.shape[1] < least:
        raise InputError(f"the difference of logits ratio needs {words} classes or more, got {logits.shape[1]}")
    ranked = logits.topk(least, 1).values
    scale = ranked[:, 0] - (ranked[:, 2] if targets is None else ranked[:, 2:].mean(1))
    if targets is None:
        return margin(logits, labels, None) / scale.clamp_min(_TINY)
    return logit_difference(logits, labels, targets) / scale.clamp_min(_TINY)


def loss(name: Loss, logits: Tensor, labels: Tensor, targets: Tensor | None, top_k: int = 1) -> Tensor:
    """The quantity to increase, `(B,)`.

    "margin", "dlr" (difference of logits ratio), or "cross_entropy": the label's, or minus the target's. Only the
    margin depends on `top_k`.
    """
    if name == "margin":
        return margin(logits, labels, targets, top_k)
    if name == "dlr":
        return difference_of_logits_ratio(logits, labels, targets)
    if targets is None:
        return F.cross_entropy(logits, labels, reduction="none")
    return -F.cross_entropy(logits, targets, reduction="none")


def achieved(logits: Tensor, labels: Tensor, targets: Tensor | None, top_k: int = 1) -> Tensor:
    """`(B,)` bool: the label is not among the `top_k` best classes, or the target is. False for logits not finite."""
    finite = torch.isfinite(logits).all(1)
    best = torch.nan_to_num(logits).topk(top_k, 1).indices
    found = (best == (labels if targets is None else targets)[:, None]).any(1)
    return (~found if targets is None else found) & finite
