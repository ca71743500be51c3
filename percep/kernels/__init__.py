"""Compiled kernels behind `percep.windows` and the solvers, whose torch code is their definition and their fallback.

Triton kernels for CUDA devices are in `gpu`, Numba kernels for a CPU in `cpu`, and the arguments of both in
`arguments`; only `launcher_for` and `fused_launcher` choose between them. Nothing imports Triton or Numba before it is
needed. The page "Kernels" of the documentation (docs/kernels.md) lists the kernels and what they cost.
"""

import os
import warnings
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.autograd import forward_ad

from percep.errors import InputError
from percep.kernels.cg import BoxSystem, CGIterate
from percep.kernels.cpu import numba_internals
from percep.kernels.geometry import Geometry
from percep.kernels.launcher import CPULauncher, Launcher

CHOICE = "PERCEP_KERNELS"
"""The environment variable that overrides the choice: "torch" uses no kernels, "triton" uses Triton's on a CPU as well,
which needs its interpreter (TRITON_INTERPRET=1)."""
PROCESS = os.getpid()
"""The process that imported this module; a fork of it has none of its threads."""
_CHOICES = ("auto", "torch", "triton")
_MAX_TAPS = 31
_TRITON = (3, 4)
"""The first version whose kernels take named tuples as constants."""


def launcher_for(values: Tensor, window: Geometry, size: tuple[int, int] | None = None) -> Launcher | None:
    """The launcher for a window's means of `values` and their adjoints; None to use torch.

    By default kernels are used where Triton (on CUDA devices) or Numba (on a CPU) is installed, for float32 (on CUDA
    devices float64 too), up to 31 taps, and values that need no derivative. On a CPU one side of the image must be
    longer than `largest_side_for_torch`. Transforms of `torch.func` need "torch".

    Args:
        values: `(..., H, W)` images, or `(..., h, w)` values of their windows.
        window: of the means.
        size: height and width of the images, where the values are of their windows.

    Raises:
        InputError: `PERCEP_KERNELS` is none of "auto", "torch" and "triton", or asks for Triton on a CPU without its
            interpreter.
    """
    choice = _choice()
    if (
        choice == "torch"
        or values.dtype not in (torch.float32, torch.float64)
        or window.size > _MAX_TAPS
        or (values.requires_grad and torch.is_grad_enabled())
        or forward_ad.unpack_dual(values).tangent is not None
    ):
        return None
    if values.is_cuda or choice == "triton":
        if not values.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise InputError(f"{CHOICE}=triton on a CPU needs Triton's interpreter: set TRITON_INTERPRET=1")
        if not _installed("triton"):
            return None
        from percep.kernels.gpu import launch as gpu  # noqa: PLC0415  importing Triton takes a second

        return gpu
    supported = values.device.type == "cpu" and values.dtype == torch.float32
    if not supported or max(size or values.shape[-2:]) <= largest_side_for_torch(window) or not _installed("numba"):
        return None
    from percep.kernels.cpu import launch as cpu  # noqa: PLC0415  and so does Numba

    return cpu


def largest_side_for_torch(window: Geometry) -> int:
    """The longest side, in pixels, of images of which a CPU averages windows in torch, where that is faster.

    For small images torch multiplies by two dense matrices. The kernels for windows that are not their own adjoints
    need larger ones to gain: with several threads and stride 1, images that torch does not average in cache. The page
    "Kernels" of the documentation has the measurements. The number of threads has no say, so that results do not
    depend on it.
    """
    if window.is_own_adjoint:
        return 48
    return 96 if window.stride > 1 else 512


def fused_launcher(values: Tensor, window: Geometry, *others: Tensor) -> Launcher | None:
    """`launcher_for`, or None if its `product` and `update_multipliers` do not support the window or the images.

    On a CPU they support neither every window nor images narrower than a vector.

    Args:
        values: what the window averages.
        window: of the averages.
        others: further inputs, which must have the same dtype and need no derivative.
    """
    launch = launcher_for(values, window)
    if (
        launch is None
        or not launch.fuses(values, window)
        or any(other.dtype != values.dtype for other in others)
        or (torch.is_grad_enabled() and any(other.requires_grad for other in others))
    ):
        return None
    return launch


def cpu_launcher(values: Tensor, window: Geometry, *others: Tensor) -> CPULauncher | None:
    """`fused_launcher` where it is that of a CPU, whose kernels are more; else None."""
    if fused_launcher(values, window, *others) is None or values.is_cuda or _choice() == "triton":
        return None
    from percep.kernels.cpu import launch  # noqa: PLC0415  imports Numba

    return launch


def cg_iterate(system: BoxSystem) -> CGIterate | None:
    """Conjugate gradients by the kernels of a CPU; None to use torch, with `product` where it has a kernel."""
    others = system.reference, system.rhs, system.diagonal, system.inner
    if cpu_launcher(system.delta, system.window, *others) is None or not system.levels:
        return None
    from percep.kernels.cpu.cg_iterate import CompiledIterate  # noqa: PLC0415  imports Numba

    return CompiledIterate(system)


def _choice() -> str:
    choice = os.environ.get(CHOICE, "auto")
    if choice not in _CHOICES:
        raise InputError(f"{CHOICE} must be one of {', '.join(_CHOICES)}, got {choice!r}")
    return choice


def described(device: torch.device) -> str:
    """What compiles the kernels for a device, with its version; "torch" if nothing does."""
    library = "numba" if device.type == "cpu" and _choice() != "triton" else "triton"
    if _choice() == "torch" or device.type not in ("cpu", "cuda") or not _installed(library):
        return "torch"
    return f"{library} {version(library)}"


@cache
def _installed(library: str) -> bool:
    """Whether a library is installed and has what the kernels need; warns if it is installed but cannot be used."""
    if find_spec(library) is None:
        return False
    try:
        return _numba_compiles() if library == "numba" else _triton_is_new_enough()
    except ImportError as error:
        warnings.warn(f"{library} cannot be used, torch does its work: {error}", stacklevel=2)
        return False


def _numba_compiles() -> bool:
    """Whether Numba compiles. Raises `ImportError` if it does not support the NumPy installed, or lacks internals."""
    numba = import_module("numba")
    numba_internals.require()
    return not numba.config.DISABLE_JIT


def _triton_is_new_enough() -> bool:
    installed = version("triton")
    if tuple(int(part) for part in installed.split(".")[:2]) < _TRITON:
        raise ImportError(f"kernels need Triton {'.'.join(map(str, _TRITON))} or later, not {installed}")
    return True
