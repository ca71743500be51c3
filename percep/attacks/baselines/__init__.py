"""The attacks that others compare with, through the libraries that hold them."""

from percep.attacks.baselines.baseline import BASELINES, Baseline

__all__ = ["BASELINES", "Baseline"]
