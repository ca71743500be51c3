"""Attacks inside the SSIM ball."""

from importlib import import_module
from typing import TYPE_CHECKING

from percep.attacks.frank_wolfe import FrankWolfe
from percep.attacks.minimal import MinimalPerturbation
from percep.attacks.quantisation import quantise
from percep.attacks.result import AttackResult, AttackStatus, MinimalResult

if TYPE_CHECKING:
    from percep.attacks import baselines as baselines
    from percep.attacks import integrations as integrations
    from percep.attacks import resave as resave

__all__ = [
    "AttackResult",
    "AttackStatus",
    "FrankWolfe",
    "MinimalPerturbation",
    "MinimalResult",
    "quantise",
]

_MODULES = ("baselines", "integrations", "resave")


def __getattr__(name: str) -> object:
    """A module on first use: none of another library's attacks is imported for ours."""
    if name in _MODULES:
        return import_module(f"percep.attacks.{name}")
    raise AttributeError(f"module 'percep.attacks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
