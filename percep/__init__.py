"""Imperceptible adversarial perturbations from a convex SSIM-ball program, each with a certificate."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from percep import attacks, solvers
from percep.adjoint import AdjointReport
from percep.ball import SSIMBall
from percep.certificate import Certificate, certify
from percep.errors import AdjointWarning, InputError, PercepError, UnavailableError
from percep.layer import SSIMBallLayer
from percep.program import Multipliers, Program, Solution, Status
from percep.solvers import solve
from percep.windows import Window

if TYPE_CHECKING:
    from percep import data, explain, models

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
    "explain",
    "models",
    "solve",
    "solvers",
]

_ON_FIRST_USE = ("data", "explain", "models")


def __getattr__(name: str) -> ModuleType:
    """`percep.data`, `percep.explain`, `percep.models` on first use: their libraries take seconds to import."""
    if name in _ON_FIRST_USE:
        return import_module(f"percep.{name}")
    raise AttributeError(f"module 'percep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
