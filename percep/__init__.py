"""Imperceptible adversarial perturbations from a convex SSIM-ball program, each with a certificate."""

from importlib import import_module
from typing import TYPE_CHECKING

from percep.errors import AdjointWarning, InputError, PercepError, UnavailableError

if TYPE_CHECKING:
    from percep import attacks, data, explain, models, solvers
    from percep.ball import SSIMBall
    from percep.certificate import Certificate, certify
    from percep.layer.adjoint import AdjointReport
    from percep.layer.module import SSIMBallLayer
    from percep.program import Multipliers, Program, Solution, Status
    from percep.solvers import solve
    from percep.solvers.projection import Projection, project
    from percep.windows import Window

__all__ = [
    "AdjointReport",
    "AdjointWarning",
    "Certificate",
    "InputError",
    "Multipliers",
    "PercepError",
    "Program",
    "Projection",
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
    "project",
    "solve",
    "solvers",
]

_MODULES = ("attacks", "data", "explain", "models", "solvers")
_HOMES = {
    "AdjointReport": "layer",
    "Certificate": "certificate",
    "Multipliers": "program",
    "Program": "program",
    "Projection": "solvers.projection",
    "SSIMBall": "ball",
    "SSIMBallLayer": "layer",
    "Solution": "program",
    "Status": "program",
    "Window": "windows",
    "certify": "certificate",
    "project": "solvers.projection",
    "solve": "solvers",
}


def __getattr__(name: str) -> object:
    """A public name on first use: torch takes seconds to import, and a command is checked without it."""
    if name in _MODULES:
        return import_module(f"percep.{name}")
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(f"percep.{_HOMES[name]}"), name)
        return value
    raise AttributeError(f"module 'percep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
