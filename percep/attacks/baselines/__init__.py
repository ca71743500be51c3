"""The attacks that others compare with, through the libraries that hold them."""

from percep.attacks.baselines.baseline import BASELINES, ROUNDING_BASELINES, Baseline

__all__ = ["BASELINES", "ROUNDING_BASELINES", "Baseline"]
