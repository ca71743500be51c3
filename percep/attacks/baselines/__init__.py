"""The attacks that others compare with, through the libraries that hold them."""

from percep.attacks.baselines.baseline import Baseline
from percep.choices import BASELINES, ROUNDING_BASELINES

__all__ = ["BASELINES", "ROUNDING_BASELINES", "Baseline"]
