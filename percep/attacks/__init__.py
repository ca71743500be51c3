"""Attacks inside the SSIM ball."""

from percep.attacks.frank_wolfe import FrankWolfe
from percep.attacks.lattice import quantise
from percep.attacks.result import AttackResult, AttackStatus

__all__ = ["AttackResult", "AttackStatus", "FrankWolfe", "quantise"]
