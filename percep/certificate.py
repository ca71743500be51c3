"""The certificate: SSIM recomputed in float64 from its textbook formula, with no code of a solver's."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from percep.summaries import range_of, table
from percep.validation.images import require_images, require_perturbed
from percep.validation.scalars import require_ssim
from percep.windows import Window

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Certificate:
    """What `certify` measured, one entry per image.

    Attributes:
        min_ssim: `(B,)` float64, the smallest SSIM over windows and channels; NaN if not finite.
        mean_ssim: `(B,)` float64, the mean SSIM over windows and channels; NaN if not finite.
        within: `(B,)` bool: pixel range, floor and mean all hold, without tolerance.
    """

    min_ssim: Tensor
    mean_ssim: Tensor
    within: Tensor

    def __repr__(self) -> str:
        return (
            f"Certificate({int(self.within.sum())} of {len(self.within)} images within; "
            f"least SSIM {range_of(self.min_ssim)}; mean SSIM {range_of(self.mean_ssim)})"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """One row per image: min_ssim, mean_ssim and within."""
        return table({"min_ssim": self.min_ssim, "mean_ssim": self.mean_ssim, "within": self.within})


def certify(
    reference: Tensor,
    images: Tensor,
    floor: float | None = None,
    mean: float | None = None,
    window: Window | None = None,
) -> Certificate:
    """Measures SSIM between references and images, and decides whether they respect a floor and a mean.

    SSIM as in Wang et al. (IEEE TIP 2004) with population moments, C1 = 0.01^2 and C2 = 0.03^2, computed by
    scipy in float64 on the CPU: it equals kornia's with eps=0 and, inside, scikit-image's with
    `use_sample_covariance=False`.

    Args:
        reference: `(B, C, H, W)`, floating point in [0, 1]; an image that is not finite has NaN figures.
        images: `(B, C, H, W)`, floating point; not within if they leave [0, 1] or are not finite.
        floor: the least SSIM allowed in any window and channel, in [-1, 1].
        mean: the least mean SSIM allowed, in [-1, 1].
        window: `Window.gaussian()` by default.

    Raises:
        InputError: shapes that differ, integers, a reference outside [0, 1], images with values outside [-1, 2] (which
            are on another scale), a level outside [-1, 1], an image too small for the window.
    """
    window = Window.gaussian() if window is None else window
    require_images(reference, "reference")
    require_perturbed(images, reference)
    floor = None if floor is None else require_ssim("floor", floor)
    mean = None if mean is None else require_ssim("mean", mean)
    window.grid(*reference.shape[-2:])
    lowest, average, within = [], [], []
    for x, y in zip(_array(reference), _array(images), strict=True):
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            lowest.append(np.nan)
            average.append(np.nan)
            within.append(False)
            continue
        values = _ssim(x, y, window)
        lowest.append(float(values.min()))
        average.append(float(values.mean()))
        holds = y.min() >= 0 and y.max() <= 1
        holds &= floor is None or lowest[-1] >= floor
        holds &= mean is None or average[-1] >= mean
        within.append(bool(holds))
    device = images.device
    return Certificate(
        torch.tensor(lowest, dtype=torch.float64, device=device),
        torch.tensor(average, dtype=torch.float64, device=device),
        torch.tensor(within, dtype=torch.bool, device=device),
    )


def _array(images: Tensor) -> np.ndarray:
    return images.detach().to("cpu", torch.float64).numpy()


def _ssim(x: np.ndarray, y: np.ndarray, window: Window) -> np.ndarray:
    """The SSIM map of one image, `(C, h, w)`."""
    mean_x, mean_y = _local_mean(x, window), _local_mean(y, window)
    var_x = _local_mean(x * x, window) - mean_x**2
    var_y = _local_mean(y * y, window) - mean_y**2
    cov = _local_mean(x * y, window) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    ssim: np.ndarray = luminance * (2 * cov + c2) / (var_x + var_y + c2)
    return ssim


def _local_mean(values: np.ndarray, window: Window) -> np.ndarray:
    from scipy.ndimage import correlate1d  # noqa: PLC0415  `import percep` does not wait for scipy

    taps = np.asarray(window.taps)
    # scipy's "mirror" is reflection about the border pixel; its centre tap is size // 2, ours (size - 1) // 2.
    origin = (window.size - 1) // 2 - window.size // 2
    for axis in (1, 2):
        values = correlate1d(values, taps, axis=axis, mode="mirror", origin=origin)
    before = (window.size - 1) // 2 if window.padding == "valid" else 0
    after = window.size - 1 - before if window.padding == "valid" else 0
    height, width = values.shape[1:]
    return values[:, before : height - after : window.stride, before : width - after : window.stride]
