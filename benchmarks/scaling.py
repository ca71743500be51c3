"""What a photograph costs in a run of one and of two processes: `python -m benchmarks.scaling`.

A run's work is timed from when its record is written, which is when the model is loaded, to when its last part is; the
rest is start-up and the merge. Photographs are copies of the samples, attacked in a ball of mean SSIM 0.999 alone,
without pictures, one thread per process. Results are in `benchmarks/results/scaling.json`; two minutes on two quiet
cores.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from foolbox import __file__ as foolbox
from torchvision.transforms import InterpolationMode

from benchmarks.machine import describe
from benchmarks.memory import peak_rise
from percep.data.shards import Archives
from percep.explain import Association, Associations
from percep.models import Preprocessing
from percep.report import ImageRow
from percep.runs.attack.outputs import Pictures, checkpoints_of, merge
from percep.runs.engine.manifest import Manifest, claim

_RESULT = Path(__file__).parent / "results" / "scaling.json"
_COPIES, _BATCH = 2, 5
_MERGED, _MERGED_BATCH = 20_000, 64


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = _photographs(folder / "photographs")
        tasks: dict[str, Sequence[str]] = {
            "attack": ["task=attack", "ball.mean=0.999"],
            "minimal": ["task=minimal", "attack.gradients=10", "data.limit=10"],
        }
        found = {
            "machine": describe(seed=0),
            "load": os.getloadavg(),
            "photographs": len(list(photographs.iterdir())),
            "runs": [
                _run(photographs, folder / f"{task}{processes}", task, processes, overrides)
                for task, overrides in tasks.items()
                for processes in (1, 2)
            ],
            "reading": _reading(photographs, folder),
            "merging": _merging(folder / "merged"),
        }
    _RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(report(found))


def report(found: dict[str, object]) -> str:
    """The results as Markdown."""
    runs, reading, merging = found["runs"], found["reading"], found["merging"]
    assert isinstance(runs, list) and isinstance(reading, dict) and isinstance(merging, dict)
    lines = [
        "| task | processes | photographs per second | efficiency | seconds per photograph and process | memory |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        (alone,) = (other["rate"] for other in runs if other["task"] == run["task"] and other["processes"] == 1)
        rate, processes = run["rate"], run["processes"]
        lines.append(
            f"| {run['task']} | {processes} | {rate:.2f} | {rate / alone / processes:.0%} | {processes / rate:.2f} | "
            f"{run['memory'] / 2**30:.2f} GiB |"
        )
    first = runs[0]
    lines += [
        "",
        f"Start-up and merge take {first['wall'] - first['work']:.0f} s. A photograph leaves "
        f"{first['part_bytes'] / 1e3:.1f} kB in parts and a PNG of {first['image_bytes'] / 1e3:.0f} kB. One process "
        f"reads {reading['rate']:.0f} photographs per second from a tar archive. Merging takes "
        f"{1e3 * merging['seconds']:.2f} ms and {merging['memory']:.0f} bytes of memory per row.",
    ]
    return "\n".join(lines)


def _photographs(folder: Path) -> Path:
    folder.mkdir()
    for path in sorted((Path(foolbox).parent / "data").glob("imagenet_*.jpg")):
        for copy in range(_COPIES):
            shutil.copy(path, folder / f"{path.stem}_{copy}.jpg")
    return folder


def _run(photographs: Path, output: Path, task: str, processes: int, overrides: Sequence[str]) -> dict[str, object]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    settings = ["data=folder", f"data.path={photographs}", f"batch_size={_BATCH}", "pictures=0", f"output={output}"]
    start = time.perf_counter()
    subprocess.run(
        [*launch, "-m", "percep", *overrides, *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[1],
    )
    wall = time.perf_counter() - start
    checkpoints = list((output / "parts").rglob("*.parquet"))
    images = list((output / "adversarial").rglob("*.png"))
    work = max(path.stat().st_mtime for path in checkpoints) - (output / "run.json").stat().st_mtime
    return {
        "task": task,
        "processes": processes,
        "rate": len(images) / work,
        "wall": wall,
        "work": work,
        "memory": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,  # of the largest process so far
        "part_bytes": sum(path.stat().st_size for path in checkpoints) / len(images),
        "image_bytes": sum(path.stat().st_size for path in images) / len(images),
    }


def _reading(photographs: Path, folder: Path) -> dict[str, float]:
    subprocess.run(["tar", "-cf", folder / "0.tar", "-C", photographs, "."], check=True)
    archive = Archives(str(folder / "0.tar"), Preprocessing(256, 224, InterpolationMode.BICUBIC), {})
    start = time.perf_counter()
    count = sum(photograph.image is not None for photograph in archive)
    return {"rate": count / (time.perf_counter() - start)}


def _merging(folder: Path) -> dict[str, float]:
    """Rows of an attack, without pictures."""
    folder.mkdir()
    checkpoints = checkpoints_of(folder, ImageRow)
    some = Association(0.1, 0.2)
    row = ImageRow(
        name="",
        status="adversarial",
        label=1,
        label_name="goldfish",
        predicted_before=1,
        predicted_before_name="goldfish",
        predicted_after=2,
        predicted_after_name="great white shark",
        success=True,
        certified=True,
        min_ssim=0.9,
        mean_ssim=0.99,
        l2=0.5,
        linf=0.01,
        gap=0.01,
        gradient_calls=1,
        seconds=0.1,
        associations=Associations(some, some, some),
        zero_gradcam=False,
    )
    settings = {"task": "attack", "seed": 0, "batch_size": _MERGED_BATCH, "pictures": 0, "model": {"name": "none"}}
    claim(folder, Manifest("percep", settings, {}, 1, _MERGED))
    for number, first in enumerate(range(0, _MERGED, _MERGED_BATCH)):
        places = range(first, min(first + _MERGED_BATCH, _MERGED))
        records = [(replace(row, name=f"{place}", min_ssim=1 / (place + 1)), Pictures()) for place in places]
        checkpoints.write(0, number, records, last=places[-1] == _MERGED - 1)
    start = time.perf_counter()
    memory = peak_rise(lambda: merge(folder, ImageRow))
    return {"rows": _MERGED, "seconds": (time.perf_counter() - start) / _MERGED, "memory": memory / _MERGED}


if __name__ == "__main__":
    main()
