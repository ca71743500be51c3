"""The Triton kernels compiled ahead of time, no device needed: `python -m benchmarks.compiled`.

Registers, shared memory and spills of every kernel for sm_80 and sm_90, as `cuobjdump` reads them from the binaries,
into benchmarks/results/compiled.json. A kernel that spills is an error.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.machine import describe
from percep import Window
from percep.kernels.arguments import (
    ConstraintArguments,
    EllipsoidArguments,
    FloorArguments,
    ImageArguments,
    StepSizes,
    SystemArguments,
    UpdateArguments,
)
from percep.kernels.gpu import launch, tiling, triton_kernels

RESULTS = Path(__file__).parent / "results" / "compiled.json"
ARCHITECTURES = (80, 90)
WINDOWS = {
    "11 taps": Window.gaussian(),
    "8 taps, stride 4, valid": Window.uniform(8, stride=4, padding="valid"),
    "31 taps": Window.gaussian(31, 5.0),
}
_SIDE = 224
_KERNELS: dict[str, tuple[Any, Callable[[Window, int, int, int], tiling.Tiling], dict[str, Any]]] = {
    "mean": (triton_kernels.passes_kernel, tiling.of_windows, {"FORWARD": True}),
    "adjoint": (triton_kernels.passes_kernel, tiling.of_pixels, {"FORWARD": False}),
    "product": (triton_kernels.product_kernel, tiling.of_products, {}),
    "update": (triton_kernels.update_kernel, tiling.of_moments, {"FLOOR": True, "MEAN": True, "TINY": 1e-30}),
}
_TYPES = {torch.float32: "fp32", torch.float64: "fp64"}


def usage(
    name: str, window: Window, dtype: torch.dtype, architecture: int, *, tap_by_tap: bool = launch.TAP_BY_TAP
) -> dict[str, int]:
    """Registers per thread, shared memory and spilled local memory in bytes, of one kernel."""
    kernel, cut, own = _KERNELS[name]
    cuts = cut(window, _SIDE, _SIDE, dtype.itemsize)
    constants = {"C": tiling.constants(window, cuts, tap_by_tap=tap_by_tap)} | own
    signature = _signature(kernel.arg_names, f"*{_TYPES[dtype]}")
    return resources(kernel, signature, constants, architecture, launch.WARPS)


def resources(
    kernel: Any, signature: dict[str, Any], constants: dict[str, Any], architecture: int, warps: int
) -> dict[str, int]:
    """`usage` of any kernel, with the types of its arguments and the constants it is compiled for."""
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=constants,
        attrs={path: [["tt.divisibility", 16]] for path in _pointers(tuple(signature.values()))},
    )
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    found = _resources(compiled.asm["cubin"])
    return {"registers": found["REG"], "spilled": found["STACK"] + found["LOCAL"], "shared": compiled.metadata.shared}


def _signature(names: list[str], pointer: str) -> dict[str, Any]:
    """The types of a kernel's arguments, of which the named tuples have pointers and numbers as theirs."""
    constraints = ConstraintArguments(*[pointer] * 6)
    known = {
        "system": SystemArguments(*[pointer] * 3),
        "given": UpdateArguments(
            ImageArguments(*[pointer] * 4),
            FloorArguments(constraints, constraints, "i32", "i32"),  # type: ignore[arg-type]
            EllipsoidArguments(*[pointer] * 2),
            StepSizes(*[pointer] * 2),
        ),
        "active": "*i32",
        "channels": "i32",
        "sizes": tiling.Sizes(*["i32"] * 8),  # type: ignore[arg-type]
    }
    return {name: "constexpr" if name.isupper() else known.get(name, pointer) for name in names}


def _pointers(types: tuple[Any, ...]) -> Iterator[tuple[int, ...]]:
    """Where pointers are in a nested tuple of types."""
    for place, kind in enumerate(types):
        if isinstance(kind, tuple):
            yield from ((place, *path) for path in _pointers(kind))
        elif kind.startswith("*"):
            yield (place,)


def _resources(binary: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


def rows(*, tap_by_tap: bool = launch.TAP_BY_TAP) -> list[dict[str, Any]]:
    """`usage` of every kernel; in float64 and for other windows than the default, on one architecture."""
    cases = [
        (name, title, dtype, architecture)
        for name in _KERNELS
        for title in WINDOWS
        for dtype in _TYPES
        for architecture in ARCHITECTURES
        if title == "11 taps" or (dtype == torch.float32 and architecture == ARCHITECTURES[-1])
    ]
    return [
        {"kernel": name, "window": title, "dtype": _TYPES[dtype], "architecture": f"sm_{architecture}"}
        | usage(name, WINDOWS[title], dtype, architecture, tap_by_tap=tap_by_tap)
        for name, title, dtype, architecture in cases
    ]


def main() -> None:
    """Compiles, writes the JSON, prints the table; exit code 1 if a kernel spills."""
    found = rows()
    RESULTS.write_text(json.dumps({"machine": describe(0), "rows": found}, indent=1) + "\n")
    for row in found:
        print("  ".join(str(value) for value in row.values()))
    sys.exit(any(row["spilled"] for row in found))


if __name__ == "__main__":
    main()
