"""Names that a configuration may choose from; what each of them stands for is defined where it is computed.

Nothing here imports torch, so that a command can be checked before its libraries are loaded.
"""

from typing import Literal, get_args

Source = Literal["packaged", "torchvision", "timm", "custom"]
"""Where a network and its weights come from: see `percep.models.load`."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
"""Pillow's resampling filters, by which photographs are resized."""

Loss = Literal["margin", "cross_entropy", "dlr"]
"""What an attack increases: see `percep.attacks.criteria.loss`."""

Measure = Literal["mean", "floor"]
"""What the minimal attack keeps large: mean SSIM, or the least SSIM in any window."""

BASELINES = (
    "fgsm",
    "pgd_linf",
    "pgd_l2",
    "ddn",
    "cw",
    "fmn",
    "apgd",
    "apgd_l2",
    "alma_ssim",
    "alma_l2",
    "perc_al",
)
"""Attacks of other libraries: see `percep.attacks.baselines.Baseline`."""

ROUNDING_BASELINES = tuple(name for name in BASELINES if name not in ("cw", "fmn"))
"""Those that can judge images as rounded to 8 bits, inside the attack."""

OURS = "percep"

ROUNDING = "+8bit"
"""Appended to a baseline's name: the attack itself judges rounded images."""

ATTACK_NAMES = (OURS, *BASELINES, *(name + ROUNDING for name in ROUNDING_BASELINES))
"""Attacks that can be compared."""

CONTROL_NAMES = ("random", "phase_shuffled", "sign_flipped")
"""What stands in for the gradient in a study: see `percep.study.CONTROLS`."""

Correlation = Literal["pearson", "spearman", "partial_spearman"]
"""How two maps are associated in a study."""

CORRELATIONS: tuple[Correlation, ...] = get_args(Correlation)

REGIONS = ("top", "outside", "matched", "shifted", "random")
"""Where a study keeps a perturbation: the top of Grad-CAM, and what it is compared with."""

FROM_NAMES = "filename"
"""What data.labels says where a photograph's name begins with its label: see `percep.data.labels.NameLabels`."""
