"""Runs the scripts `plot_*.py` and keeps what they print and draw, for the documentation: `make examples`."""

import io
import runpy
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib as mpl

FOLDER = Path(__file__).parent
KEPT = FOLDER.parent / "docs" / "examples"
SCRIPTS = tuple(sorted(path.stem for path in FOLDER.glob("plot_*.py")))


def run(script: str, picture: Path) -> str:
    """What a script prints; its figure goes to `picture`, a JPEG of a hundred dots per inch."""
    mpl.use("agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415  after its backend is chosen

    printed = io.StringIO()
    with redirect_stdout(printed):
        runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
    plt.savefig(picture, dpi=100, pil_kwargs={"quality": 85})
    plt.close("all")
    return printed.getvalue()


if __name__ == "__main__":
    for script in SCRIPTS:
        (KEPT / f"{script}.txt").write_text(run(script, KEPT / f"{script}.jpg"))
