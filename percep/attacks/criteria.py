"""What an attack maximises, and when it has succeeded."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Literal["margin", "cross_entropy"]


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """`(B,)`, positive where the goal is met: best other logit minus the label's, or target's minus best other.

    `logits` is `(B, K)`; `labels` and `targets` are `(B,)` class indices.
    """
    goal = labels if targets is None else targets
    chosen = logits.gather(1, goal[:, None]).squeeze(1)
    others = logits.scatter(1, goal[:, None], -torch.inf).amax(1)
    return others - chosen if targets is None else chosen - others


def loss(name: Loss, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """The quantity to increase, `(B,)`: the margin, or the cross-entropy of the label (minus the target's)."""
    if name == "margin":
        return margin(logits, labels, targets)
    if targets is None:
        return F.cross_entropy(logits, labels, reduction="none")
    return -F.cross_entropy(logits, targets, reduction="none")


def achieved(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """`(B,)` bool: the prediction is not the label, or is the target. False for logits that are not finite."""
    prediction = logits.argmax(1)
    met = prediction != labels if targets is None else prediction == targets
    return met & torch.isfinite(logits).all(1)
