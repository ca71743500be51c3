"""What an attack answers, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from percep.certificate import certify
from percep.ssim import ssim_losses
from percep.summaries import counted, median_of, save_pngs, table
from percep.windows import Window

if TYPE_CHECKING:
    import pandas as pd


class AttackStatus(StrEnum):
    """Why an attack stopped on an image."""

    ADVERSARIAL = "adversarial"
    """The image is adversarial, and inside the ball where there is one."""
    NOT_FOUND = "not_found"
    """No image tried within the budget of gradients was."""
    ALREADY_ADVERSARIAL = "already_adversarial"
    """The reference itself satisfies the goal; it is returned unchanged."""
    NO_GRADIENT = "no_gradient"
    """Nothing was found, and the loss has no gradient at the reference: a constant, saturated or masked model."""
    NOT_FINITE = "not_finite"
    """The image, or the model's output or gradient on it, held NaN or infinity."""


@dataclass(frozen=True, repr=False)
class AttackResult:
    """One entry per image; tensors live on the images' device.

    `FrankWolfe` answers with images inside a ball and `MinimalPerturbation` with any, of as many grey levels as they
    are told; baselines with what their libraries give: floats, mostly. Only a ball has a certificate beyond the pixel
    range, and only programs have a gap. `print` shows one line, `to_pandas` a row per image, `save` writes files.

    Attributes:
        images: `(B, C, H, W)` in `[0, 1]`; 8-bit images are multiples of 1/255, exactly what a file holds. The best
            image found, or the reference where nothing better was; 0 where the reference is not finite.
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

    @classmethod
    def measured(
        cls,
        reference: Tensor,
        images: Tensor,
        status: Sequence[AttackStatus],
        *,
        finite: Tensor,
        labels_before: Tensor,
        labels_after: Tensor,
        gradient_calls: Tensor,
        forward_calls: Tensor,
        gap: Tensor | None = None,
        floor: float | None = None,
        mean: float | None = None,
        window: Window | None = None,
    ) -> AttackResult:
        """What an attack knows, and what is measured on its images.

        Args:
            reference, images: `(B, C, H, W)`, finite; those of images that are not stand in for them.
            status: why the attack stopped; an image is a success if it is adversarial and certified.
            finite: `(B,)` bool, which references were; the others' SSIM is NaN.
            gap: None where no program was solved.
            floor, mean, window: of the ball, as in `percep.certify`.
        """
        certificate = certify(reference, images, floor, mean, window)
        certified = certificate.within & finite
        hit = [state in (AttackStatus.ADVERSARIAL, AttackStatus.ALREADY_ADVERSARIAL) for state in status]
        losses = ssim_losses(reference, images, Window.gaussian() if window is None else window)
        nan = torch.where(finite, 0.0, torch.nan)
        return AttackResult(
            images=images,
            success=torch.tensor(hit, dtype=torch.bool, device=reference.device) & certified,
            labels_before=labels_before,
            labels_after=labels_after,
            certified=certified,
            min_ssim=certificate.min_ssim + nan,
            mean_ssim=certificate.mean_ssim + nan,
            gap=torch.full_like(certificate.min_ssim, torch.nan) if gap is None else gap,
            gradient_calls=gradient_calls,
            forward_calls=forward_calls,
            status=tuple(status),
            spending=losses.luminance + losses.contrast,
        )

    def __repr__(self) -> str:
        """Counts of the statuses, and of the successes the median cost and number of gradients."""
        found = self.success & torch.isfinite(self.mean_ssim)
        count = len(self.status)
        return (
            f"{type(self).__name__}({count} image{'s' * (count != 1)}: {counted(self.status)}; "
            f"{int(self.success.sum())} fooled, "
            f"median 1 - mean SSIM {median_of(1 - self.mean_ssim[found])}, "
            f"median gradients {median_of(self.gradient_calls[found].double())})"
        )

    def to_pandas(self) -> pd.DataFrame:
        """A row per image, with the columns of a run's `results.csv` where they have the same meaning.

        `status`, `predicted_before`, `predicted_after` (-1 where the model's output is not finite), `success`,
        `certified`, `min_ssim`, `mean_ssim`, `gap`, `gradient_calls`, `forward_calls`.
        """
        return table(
            {
                "status": [str(state) for state in self.status],
                "predicted_before": self.labels_before,
                "predicted_after": self.labels_after,
                "success": self.success,
                "certified": self.certified,
                "min_ssim": self.min_ssim,
                "mean_ssim": self.mean_ssim,
                "gap": self.gap,
                "gradient_calls": self.gradient_calls,
                "forward_calls": self.forward_calls,
            }
        )

    def save(self, folder: str | Path) -> None:
        """Writes `images` as `0000.png`, `0001.png`, ... and `results.csv`, the table with its column `file`.

        Args:
            folder: made where it is missing; files of these names are replaced. An image whose reference is not finite
                has no file.

        Raises:
            InputError: images that an 8-bit PNG does not hold: between its levels, or not of 1 or 3 channels; a folder
                that cannot be made.
        """
        names = save_pngs(Path(folder), self.images, torch.isfinite(self.mean_ssim).tolist())
        rows = self.to_pandas()
        rows.insert(0, "file", names)
        rows.to_csv(Path(folder) / "results.csv", index=False)


@dataclass(frozen=True, repr=False)
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

    def to_pandas(self) -> pd.DataFrame:
        """The table of an `AttackResult`, and `found` and `missed`."""
        return super().to_pandas().assign(found=self.found.tolist(), missed=self.missed.tolist())
