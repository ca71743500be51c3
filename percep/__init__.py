"""Imperceptible adversarial perturbations from a convex SSIM-ball program, each with a certificate."""

from percep import attacks, solvers
from percep.ball import SSIMBall
from percep.certificate import Certificate, certify
from percep.errors import InputError, PercepError, UnavailableError
from percep.program import Multipliers, Program, Solution, Status
from percep.solvers import solve
from percep.windows import Window

__all__ = [
    "Certificate",
    "InputError",
    "Multipliers",
    "PercepError",
    "Program",
    "SSIMBall",
    "Solution",
    "Status",
    "UnavailableError",
    "Window",
    "attacks",
    "certify",
    "solve",
    "solvers",
]
