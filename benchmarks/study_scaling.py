"""What the study costs in time, in parts and when these are merged: `python -m benchmarks.study_scaling`.

The full study of the main variant, of one more mean and of a floor, on the first sample photographs, one thread per
process, by one process and by two. A pass takes from when the last part before it was written to its own last one. The
parts are then repeated under other names and merged. Results are in `benchmarks/results/study-scaling.json`; ten
minutes on two quiet cores.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.memory import peak_rise, printed_alone
from percep.explain import bootstrap_interval
from percep.runs.engine.checkpoints import Checkpoints
from percep.runs.engine.manifest import claim, read_manifest
from percep.runs.study.outputs import Pictured, VariantCheckpoints, merge_study
from percep.study import PhotographEvidence
from percep.study.evidence import is_fooled

_RESULTS = Path(__file__).parent / "results"
_RESULT = _RESULTS / "study-scaling.json"
_PHOTOGRAPHS, _BATCH = 6, 3
_VARIANTS = ("main", "mean 0.99", "floor 0.95")
_SWEEP = "study.sweep=[{mean: 0.99}, {floor: 0.95}]"
_MERGED, _MERGED_BATCH = (200, 600), 50
_VALIDATION = 50_000
"""Photographs of ImageNet's validation set."""


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [_run(folder / f"{processes}", processes) for processes in (1, 2)]
        found = {
            "machine": describe(seed=0),
            "load": os.getloadavg(),
            "photographs": _PHOTOGRAPHS,
            "runs": runs,
            "bytes": [_bytes(checkpoints) for checkpoints in _variants(folder / "1")],
            "merging": _merging(folder),
            "interval_seconds": _interval_seconds(),
        }
    _RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(report(found))


def report(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    (alone, pair), sizes, merging = found["runs"], found["bytes"], found["merging"]
    lines = [
        "| variant | screening, s per photograph | measurement, s per photograph | block means, bytes | part, bytes |",
        "|---|---|---|---|---|",
    ]
    for name, times, size in zip(_VARIANTS, alone["passes"], sizes, strict=True):
        lines.append(
            f"| {name} | {times['survey']:.2f} | {times['examination']:.1f} | {size['maps']:,} | {size['part']:,.0f} |"
        )
    lines += [
        "",
        f"{found['photographs']} photographs; all three variants took {alone['work']:.0f} s by one process and "
        f"{pair['work']:.0f} s by two. The main variant's part holds a page's pictures of the photograph as well. "
        f"Merging the three takes {1e3 * merging['seconds']:.0f} ms and {merging['memory']:,.0f} bytes of memory per "
        f"photograph, the interval of {_VALIDATION:,} values {found['interval_seconds']:.1f} s. "
        f"Load {found['load'][0]:.1f} on {found['machine']['cores']} cores.",
    ]
    return "\n".join(lines)


def _run(output: Path, processes: int) -> dict[str, object]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    settings = [f"data.limit={_PHOTOGRAPHS}", f"batch_size={_BATCH}", _SWEEP, f"output={output}"]
    subprocess.run(
        [*launch, "-m", "percep", "task=explain", *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[1],
    )
    begun = last = (output / "run.json").stat().st_mtime
    passes = []
    for checkpoints in _variants(output):
        times = {}
        for name, done in (("survey", checkpoints.screening), ("examination", checkpoints.measurement)):
            before, last = last, max(path.stat().st_mtime for path in done.folder.rglob("*.parquet"))
            times[name] = (last - before) / _PHOTOGRAPHS
        passes.append(times)
    return {"processes": processes, "work": last - begun, "passes": passes}


def _variants(output: Path) -> list[VariantCheckpoints]:
    return [VariantCheckpoints(folder) for folder in sorted((output / "parts").iterdir())]


def _bytes(checkpoints: VariantCheckpoints) -> dict[str, float]:
    records = [one for _, _, batch in checkpoints.measurement for one, _ in batch if is_fooled(one.status)]
    maps = {sum(len(named.blocks.values) for named in one.maps) for one in records}
    (size,) = maps
    stored = sum(path.stat().st_size for path in checkpoints.folder.rglob("*.parquet"))
    return {"maps": size, "part": stored / len(records)}


def _merging(folder: Path) -> dict[str, float]:
    """Seconds and bytes per photograph, the slope between two numbers of photographs, without the constant part."""
    seconds, memory = [], []
    for count in _MERGED:
        repeated = folder / f"merged{count}"
        _repeat(folder / "1", repeated, count)
        memory.append(printed_alone("benchmarks.study_scaling", str(repeated)))
        start = time.perf_counter()
        merge_study(repeated)
        seconds.append(time.perf_counter() - start)
    more = _MERGED[1] - _MERGED[0]
    return {"seconds": (seconds[1] - seconds[0]) / more, "memory": (memory[1] - memory[0]) / more}


def _repeat(source: Path, target: Path, count: int) -> None:
    """A study of so many photographs, of which those that were fooled are repeated, without pictures."""
    target.mkdir()
    manifest = read_manifest(source)
    claim(target, replace(manifest, photographs=count))
    for done in _variants(source):
        checkpoints = VariantCheckpoints(target / done.folder.relative_to(source))
        screened = [one for _, _, batch in done.screening for (one,) in batch]
        fooled = [one for _, _, batch in done.measurement for one, _ in batch if is_fooled(one.status)]
        _write(checkpoints.screening, [(replace(screened[i % len(screened)], name=f"{i}"),) for i in range(count)])
        _write(checkpoints.measurement, [(_renamed(fooled[i % len(fooled)], f"{i}"), Pictured()) for i in range(count)])


def _renamed(photograph: PhotographEvidence, name: str) -> PhotographEvidence:
    return replace(
        photograph,
        name=name,
        regions=tuple(replace(row, name=name) for row in photograph.regions),
        curves=tuple(replace(row, name=name) for row in photograph.curves),
    )


def _write(checkpoints: Checkpoints, records: Sequence[tuple[object, ...]]) -> None:
    for number, first in enumerate(range(0, len(records), _MERGED_BATCH)):
        held = records[first : first + _MERGED_BATCH]
        checkpoints.write(0, number, held, last=first + _MERGED_BATCH >= len(records))


def _interval_seconds() -> float:
    values = np.random.default_rng(0).standard_normal(_VALIDATION)
    start = time.perf_counter()
    bootstrap_interval(values, 0)
    return time.perf_counter() - start


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(peak_rise(lambda: merge_study(Path(sys.argv[1]))))
    else:
        main()
