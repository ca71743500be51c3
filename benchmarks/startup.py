"""How long a command takes to say what is wrong with it, beside hydra's own import: `python -m benchmarks.startup`.

Each command runs in a process of its own, in turn with the others, after a round that fills the file cache. A quiet
machine takes half a minute. Results are in `benchmarks/results/startup.json`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.timing import quartiles

_ROOT = Path(__file__).parents[1]
RESULT = _ROOT / "benchmarks" / "results" / "startup.json"
_ROUNDS = 11
_REFERENCE = "import hydra"
_COMMANDS: dict[str, list[str]] = {
    _REFERENCE: ["-c", "import hydra"],
    "percep --help": ["-m", "percep", "--help"],
    "percep ball.flor=0.9": ["-m", "percep", "ball.flor=0.9"],
    "percep model=mobilenet_v3": ["-m", "percep", "model=mobilenet_v3"],
    "import percep": ["-c", "import percep"],
    "percep ball.floor=1.5": ["-m", "percep", "ball.floor=1.5"],
}
BARS = dict.fromkeys(("percep --help", "percep ball.flor=0.9", "percep model=mobilenet_v3", "import percep"), 1.5)
"""Most times hydra's import; a value out of range is found once hydra has composed the configuration, and has none."""


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_ROUNDS + 1):
            for name, arguments in _COMMANDS.items():
                taken = _seconds(arguments, folder)
                if number:
                    seconds[name].append(taken)
    found = {
        "machine": describe(seed=0),
        "load": os.getloadavg(),
        "rounds": _ROUNDS,
        "seconds": {name: quartiles(taken) for name, taken in seconds.items()},
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(report(found))


def report(result: dict[str, Any]) -> str:
    """The medians, and how many times hydra's import each is, in Markdown."""
    reference = result["seconds"][_REFERENCE][1]
    lines = ["| command | seconds | times hydra's import | bar | reached |", "|---|---|---|---|---|"]
    for name, (_, median, _) in result["seconds"].items():
        bar = BARS.get(name)
        verdict = "| | |" if bar is None else f"| <= {bar:g} | {'yes' if median <= bar * reference else 'no'} |"
        lines.append(f"| `{name}` | {median:.2f} | {median / reference:.2f} {verdict}")
    return "\n".join(lines)


def _seconds(arguments: list[str], folder: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    taken = time.perf_counter() - start
    wrong = "ball.f" in arguments[-1] or "model=" in arguments[-1]
    if done.returncode != (2 if wrong else 0):
        raise RuntimeError(f"{arguments} has ended with {done.returncode}: {done.stderr}")
    return taken


if __name__ == "__main__":
    main()
