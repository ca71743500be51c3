"""Triton kernels behind `windows` and the solvers, whose torch code is their definition and their fallback.

`used` is the only place that chooses. Nothing here imports Triton before a kernel is needed.
"""

import os
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from percep.errors import InputError

# The environment variable that overrides the choice: "torch" is torch everywhere, "triton" also takes tensors on a CPU
# to the kernels, which needs Triton's interpreter (TRITON_INTERPRET=1).
CHOICE = "PERCEP_KERNELS"
_CHOICES = ("auto", "torch", "triton")
_MOST_TAPS = 31


def used(values: Tensor, taps: int) -> bool:
    """Whether a window of so many taps per side treats `values` with the kernels.

    By default on CUDA devices where Triton is installed: float32 and float64, up to 31 taps, nothing to differentiate.

    Raises:
        InputError: `PERCEP_KERNELS` is none of "auto", "torch" and "triton", or asks for kernels on a CPU without
            Triton's interpreter.
    """
    choice = os.environ.get(CHOICE, "auto")
    if choice == "torch" or (choice == "auto" and not values.is_cuda):
        return False
    if choice not in _CHOICES:
        raise InputError(f"{CHOICE} must be one of {', '.join(_CHOICES)}, got {choice!r}")
    if not values.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"{CHOICE}=triton on a CPU needs Triton's interpreter: set TRITON_INTERPRET=1")
    differentiable = values.requires_grad and torch.is_grad_enabled()
    return values.dtype in (torch.float32, torch.float64) and taps <= _MOST_TAPS and not differentiable and _installed()


def launchers() -> ModuleType:
    """`percep.kernels.launch`, with Triton."""
    from percep.kernels import launch  # noqa: PLC0415  importing Triton takes a second

    return launch


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
