"""Compiled kernels behind `windows` and the solvers, whose torch code is their definition and their fallback.

Where `solvers.Dual` spent its time in torch, profiled at 224x224x3 on one CPU thread to a gap of 1e-2: with a floor,
half in local means and their adjoints, of which products with the system's matrix `M v = diag(a) v + A'(b * A v)` are
the largest part, 21% of the whole; 10% in the preconditioner; 5% in the update of the multipliers. With a mean alone,
20% in those products. So there are four: the product with its inner product `<v, M v>`, the moments with the update
they feed, and the plain mean and adjoint for everything else.

Each is bound by memory. Bytes per pixel and iteration in float32, 11 taps, stride 1, at 224x224:

| | designed | Triton, with halos | torch, one operation at a time |
|---|---|---|---|
| `M v` and `<v, M v>`: v, a, b read once, `M v` written | 16 | 19.9 | 576 |
| update, floor: d, x, two statistics, two radii; two prices and steps, in and out | 56 | 62 | about 1000 |

On CUDA devices Triton kernels work tile by tile (`fused`, launched by `gpu`). The first row is counted by
`traffic.product_bytes`, which a test holds against the loads and stores of the interpreted kernel, and by
`traffic.product_bytes_torch`. The second is arithmetic: a tile of 16x118 windows reads 26x128 of d and x. Not counted
are the kernels' scratch, 17 bytes per pixel written and read again within a tile, which is to stay in the caches but
was never seen to, and the floor under the multipliers (`pieces.no_less`), 24 bytes more. **None of this has run on
a GPU**: the kernels are tested in Triton's interpreter against the torch code, and compiled for sm_80 and sm_90 without
spills (`python -m benchmarks.compiled`); graphs and speed are untested.

On a CPU Numba kernels work row by row (`symmetric` and `multipliers` for SSIM's own windows, in explicit `vectors`;
`general` for any other's means and adjoints, and where an image is narrower than a vector; launched by `cpu`, shared by
the `threads` of torch): rows between passes are kept in the second-level cache, so that memory moves the designed
bytes, and what `out` costs to be fetched before it is written. What a product costs in cache, for a vector and 11 taps:
24 multiplications, 20 of them fused with additions, 20 more additions, 14 reads for four rows in a pass down, and 11 in
a pass across, ten of which would lie in two cache lines each, were not half of them shifted together from registers.
`python -m benchmarks.device` measures it.

`launchers` and `fusing` are the only places that choose. Nothing imports Triton or Numba before a kernel is needed.
"""

import os
import warnings
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import forward_ad

from percep.errors import InputError
from percep.kernels.geometry import Geometry

# The environment variable that overrides the choice: "torch" is torch everywhere, "triton" also takes tensors on a CPU
# to the kernels, which needs Triton's interpreter (TRITON_INTERPRET=1).
CHOICE = "PERCEP_KERNELS"
PROCESS = os.getpid()
"""That imported this; a forked one has none of its threads."""
_CHOICES = ("auto", "torch", "triton")
_MOST_TAPS = 31
_SMALL = 48


def launchers(values: Tensor, window: Geometry) -> ModuleType | None:
    """What launches a window's means of `values` and their adjoints, `kernels.gpu` or `kernels.cpu`; None is torch.

    By default kernels are launched wherever Triton, on CUDA devices, or Numba, on a CPU, is installed: float32, on CUDA
    devices float64 too, up to 31 taps, nothing to differentiate. On a CPU only images that have a side of more than 48
    pixels: of smaller ones a product with two dense matrices is as fast. Transforms of `torch.func` need "torch".

    Raises:
        InputError: `PERCEP_KERNELS` is none of "auto", "torch" and "triton", or asks for Triton on a CPU without its
            interpreter.
    """
    choice = _choice()
    if (
        choice == "torch"
        or values.dtype not in (torch.float32, torch.float64)
        or window.size > _MOST_TAPS
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
    known = values.device.type == "cpu" and values.dtype == torch.float32
    if not known or max(values.shape[-2:]) <= _SMALL or not _installed("numba"):
        return None
    from percep.kernels.cpu import launch as cpu  # noqa: PLC0415  and so does Numba

    return cpu


def fusing(values: Tensor, window: Geometry, *others: Tensor) -> ModuleType | None:
    """`launchers` where the system product and the multipliers' update are left to them too: on a CPU not for every
    window, nor for images narrower than a vector.

    Args:
        values: what the window averages.
        window: of the averages.
        others: what else goes into it; nothing to differentiate there either, and of the same type.
    """
    launch = launchers(values, window)
    if (
        launch is None
        or not launch.fuses(values, window)
        or any(other.dtype != values.dtype for other in others)
        or (torch.is_grad_enabled() and any(other.requires_grad for other in others))
    ):
        return None
    return launch


def _choice() -> str:
    choice = os.environ.get(CHOICE, "auto")
    if choice not in _CHOICES:
        raise InputError(f"{CHOICE} must be one of {', '.join(_CHOICES)}, got {choice!r}")
    return choice


def described(device: torch.device) -> str:
    """What compiles the kernels for a device, with its version; "torch" where nothing does."""
    library = "numba" if device.type == "cpu" and _choice() != "triton" else "triton"
    if _choice() == "torch" or device.type not in ("cpu", "cuda") or not _installed(library):
        return "torch"
    return f"{library} {version(library)}"


@cache
def _installed(library: str) -> bool:
    """Whether a library is there, and of Numba, which is choosy about NumPy, that it can be imported and compiles."""
    if find_spec(library) is None:
        return False
    if library == "numba":
        try:
            return not import_module(library).config.DISABLE_JIT
        except ImportError as error:
            warnings.warn(f"numba cannot be imported, torch does its work: {error}", stacklevel=2)
            return False
    return True
