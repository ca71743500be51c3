"""`python -m benchmarks.gpu --output DIR --minutes 8`: every part, the JSON, the tables and the largest costs."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.gpu.inputs import FLOOR, MEAN, SEED, Run
from benchmarks.gpu.parts import PARTS, measure, path_of, write
from benchmarks.gpu.processes import Outcome, run_alone
from benchmarks.gpu.report import merged, part_result, passed, tables
from benchmarks.machine import describe


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts one after the other; 0 if `passed`, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder that takes the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="that the whole may take")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="cuda where there is one")
    given = parser.parse_args(arguments)
    device_type = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    given.output.mkdir(parents=True, exist_ok=True)
    # Processes take it from this one: Triton decides when it is imported whether it interprets.
    with patch.dict(os.environ, {"TRITON_INTERPRET": "0" if device_type == "cuda" else "1"}):
        result = run(given.output, device_type, 60 * given.minutes)
    return 0 if passed(result) else 1


def run(folder: Path, device_type: str, seconds: float) -> dict[str, Any]:
    """Every part with its share of what is left of the time; the files are rewritten after each."""
    header: dict[str, Any] = {
        "machine": describe(SEED),
        "device": {"type": device_type},
        "settings": {"seconds": seconds, "floor": FLOOR, "mean": MEAN, "seed": SEED},
    }
    start, results = time.perf_counter(), []
    for letter, part in PARTS.items():
        path_of(folder, letter).unlink(missing_ok=True)
        left = seconds - (time.perf_counter() - start)
        shares = [each.share for other, each in PARTS.items() if other >= letter]
        limit = max(0.0, left) * part.share / sum(shares)
        outcome = Outcome("killed", 0.0, "no time was left")
        if limit > 0:
            arguments = (letter, Run(device_type, folder, limit))
            outcome = run_alone(measure, arguments, limit, folder / f"{letter}.log")
        results.append(part_result(folder, letter, outcome, limit))
        write(path_of(folder, letter), results[-1])
        if letter == "a" and results[0]["rows"]:
            header["device"] |= results[0]["rows"][0]
        result = merged(header, results)
        write(folder / "gpu.json", result)
        (folder / "gpu.md").write_text(tables(result))
        print(f"({letter}) {part.title}: {results[-1]['status']}, {outcome.seconds:.1f} s {outcome.error}", flush=True)
    print(tables(result))
    return result


if __name__ == "__main__":
    sys.exit(main())
