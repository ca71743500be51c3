"""The values that a configuration may choose from; what each means is defined where it is computed.

Nothing here imports torch, so that a command can be checked before its libraries are loaded.
"""

from typing import Literal, get_args

Source = Literal["packaged", "torchvision", "timm", "custom"]
"""Where a network and its weights come from: see `percep.models.load`."""

DATA_SOURCES = ("samples", "folder", "image", "imagefolder", "webdataset")
"""Where photographs come from: the packaged samples, or a path that `percep.runs.inputs.SOURCES` reads."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
"""Pillow's resampling filters, by which photographs are resized."""

Loss = Literal["margin", "cross_entropy", "dlr"]
"""The loss an attack increases: see `percep.attacks.criteria.loss`."""

Measure = Literal["mean", "floor"]
"""The measure the minimal attack maximises: mean SSIM, or the least SSIM in any window."""

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
"""Those that can evaluate images rounded to 8 bits inside the attack."""

OURS = "percep"

ROUNDING = "+8bit"
"""Suffix of a baseline's name: the attack evaluates rounded images inside."""

ATTACK_NAMES = (OURS, *BASELINES, *(name + ROUNDING for name in ROUNDING_BASELINES))
"""Attacks that can be compared: ours, baselines, and baselines that round inside."""

CONTROL_NAMES = ("random", "phase_shuffled", "sign_flipped")
"""Controls for the gradient in a study: see `percep.study.CONTROLS`."""

Correlation = Literal["pearson", "spearman", "partial_spearman"]
"""Measures of the association of two maps in a study."""

CORRELATIONS: tuple[Correlation, ...] = get_args(Correlation)

ATTRIBUTION_NAMES = ("gradcam", "integrated_gradients", "occlusion")
"""Attributions that a study has names for: see `percep.study.ATTRIBUTIONS`. Others have import paths."""

REGIONS = ("top", "outside", "matched", "shifted", "random")
"""Regions a study restricts a perturbation to: the top of Grad-CAM, and those it is compared with."""

STRATA = ("attended_area", "confidence", "class_group")
"""Splits of photographs whose associations a study compares: see `percep.study.strata`."""

FROM_NAMES = "filename"
"""The value of data.labels for photographs whose names begin with their labels: see `percep.data.labels.NameLabels`."""
