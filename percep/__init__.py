"""Imperceptible adversarial perturbations from a convex SSIM-ball program, each with a certificate."""

from importlib import import_module
from types import ModuleType

from percep import attacks, solvers
from percep.adjoint import AdjointReport
from percep.ball import SSIMBall
from percep.certificate import Certificate, certify
from percep.errors import AdjointWarning, InputError, PercepError, UnavailableError
from percep.layer import SSIMBallLayer
from percep.program import Multipliers, Program, Solution, Status
from percep.solvers import solve
from percep.windows import Window

__all__ = [
    "AdjointReport",
    "AdjointWarning",
    "Certificate",
    "InputError",
    "Multipliers",
    "PercepError",
    "Program",
    "SSIMBall",
    "SSIMBallLayer",
    "Solution",
    "Status",
    "UnavailableError",
    "Window",
    "attacks",
    "certify",
    "data",
    "models",
    "solve",
    "solvers",
]


def __getattr__(name: str) -> ModuleType:
    """`percep.data` and `percep.models` on first use: torchvision and timm take seconds to import."""
    if name in ("data", "models"):
        return import_module(f"percep.{name}")
    raise AttributeError(f"module 'percep' has no attribute {name!r}")
