"""Attacks inside the SSIM ball."""

from percep.attacks.frank_wolfe import FrankWolfe
from percep.attacks.lattice import quantise
from percep.attacks.minimal import MinimalPerturbation
from percep.attacks.result import AttackResult, AttackStatus, MinimalResult

__all__ = ["AttackResult", "AttackStatus", "FrankWolfe", "MinimalPerturbation", "MinimalResult", "quantise"]
