"""What an attack answers, image by image."""

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor


class AttackStatus(StrEnum):
    """Why an attack stopped on an image."""

    ADVERSARIAL = "adversarial"
    """The image is adversarial, and inside the ball where there is one."""
    NOT_FOUND = "not_found"
    """No image tried within the budget of gradients was."""
    ALREADY_ADVERSARIAL = "already_adversarial"
    """The reference itself satisfies the goal; it is returned unchanged."""
    NO_GRADIENT = "no_gradient"
    """Nothing was found, and the loss's gradient is zero everywhere: a constant, saturated or masked model."""
    NOT_FINITE = "not_finite"
    """The image, the model's output or its gradient held NaN or infinity."""


@dataclass(frozen=True)
class AttackResult:
    """One entry per image; tensors live on the images' device.

    `FrankWolfe` answers with 8-bit images inside a ball, `MinimalPerturbation` with 8-bit images unless it is told
    otherwise, baselines with what their libraries give: floats, mostly. Only a ball has a certificate beyond the pixel
    range, and only programs have a gap.

    Attributes:
        images: `(B, C, H, W)` in `[0, 1]`; 8-bit images are multiples of 1/255, exactly what a file holds. The best
            image found, or the reference where nothing better was.
        success: `(B,)` bool, `images` is adversarial and inside the ball.
        labels_before: `(B,)` int64, the model's prediction on the reference (-1 where it is not finite).
        labels_after: `(B,)` int64, the model's prediction on `images` (-1 where it is not finite).
        certified: `(B,)` bool, `percep.certify` finds `images` inside the ball, or the pixel range without one.
        min_ssim: `(B,)` float64, smallest SSIM over windows and channels of `images`.
        mean_ssim: `(B,)` float64, mean SSIM over windows and channels of `images`.
        gap: `(B,)` float64, certified relative gap of the last program solved; NaN where none was.
        gradient_calls: `(B,)` int64, gradients of the loss taken for this image.
        forward_calls: `(B,)` int64, further forward passes without a gradient.
        status: one `AttackStatus` per image.
        spending: `(B, C, h, w)`, where the perceptual budget of `images` went: per window
            (1 - S1) + (1 - S2), which bounds 1 - SSIM from above.
    """

    images: Tensor
    success: Tensor
    labels_before: Tensor
    labels_after: Tensor
    certified: Tensor
    min_ssim: Tensor
    mean_ssim: Tensor
    gap: Tensor
    gradient_calls: Tensor
    forward_calls: Tensor
    status: tuple[AttackStatus, ...]
    spending: Tensor


@dataclass(frozen=True)
class MinimalResult(AttackResult):
    """A search's answer as an interval: adversarial at `found`, not found at `missed`.

    Attributes:
        found: `(B,)` float64, SSIM of `images` in the measure asked for (its mean, or its least value over windows
            and channels); NaN where nothing adversarial was found.
        missed: `(B,)` float64, least SSIM above `found` of an image that was tried and was not adversarial. Where
            nothing was found, the least SSIM tried. At most 1, which is the reference itself.
    """

    found: Tensor
    missed: Tensor
