"""The Triton kernels compiled ahead of time, no device needed: `python -m benchmarks.compiled`.

Registers, shared memory and spills of every kernel for sm_80 and sm_90, as `cuobjdump` reads them from the binaries,
into benchmarks/results/compiled.json. A kernel that spills is an error.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.machine import describe
from percep import Window
from percep.kernels.gpu import launch, triton_kernels
from percep.kernels.gpu.tiling import Tiling, of_moments, of_pixels, of_products, of_windows

RESULTS = Path(__file__).parent / "results" / "compiled.json"
ARCHITECTURES = (80, 90)
WINDOWS = {
    "11 taps": Window.gaussian(),
    "8 taps, stride 4, valid": Window.uniform(8, stride=4, padding="valid"),
    "31 taps": Window.gaussian(31, 5.0),
}
_SIDE = 224
_KERNELS: dict[str, tuple[Any, Callable[[Window, int, int, int], Tiling], dict[str, Any]]] = {
    "mean": (triton_kernels.passes_kernel, of_windows, {"FORWARD": True}),
    "adjoint": (triton_kernels.passes_kernel, of_pixels, {"FORWARD": False}),
    "product": (triton_kernels.product_kernel, of_products, {}),
    "update": (triton_kernels.update_kernel, of_moments, {"FLOOR": True, "MEAN": True, "TINY": 1e-30}),
}
_TYPES = {torch.float32: "fp32", torch.float64: "fp64"}
_INTEGERS = {
    "channels", "planes", "height", "width", "rows", "columns", "tiles_across", "tiles", "programs", "k_image",
    "k_window",
}  # fmt: skip


def usage(name: str, window: Window, dtype: torch.dtype, architecture: int) -> dict[str, int]:
    """Registers per thread, shared memory and spilled local memory in bytes, of one kernel."""
    kernel, tiling, own = _KERNELS[name]
    constants = launch.constants(window, tiling(window, _SIDE, _SIDE, dtype.itemsize)) | own
    pointer = f"*{_TYPES[dtype]}"
    signature = {
        argument: "constexpr" if argument in constants
        else "i32" if argument in _INTEGERS
        else "*i32" if argument == "active"
        else pointer
        for argument in kernel.arg_names
    }  # fmt: skip
    pointers = [place for place, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=constants,
        attrs={(place,): [["tt.divisibility", 16]] for place in pointers},
    )
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": launch.WARPS})
    found = _resources(compiled.asm["cubin"])
    return {"registers": found["REG"], "spilled": found["STACK"] + found["LOCAL"], "shared": compiled.metadata.shared}


def _resources(binary: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


def rows() -> list[dict[str, Any]]:
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
        | usage(name, WINDOWS[title], dtype, architecture)
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
