"""Puts the tables of the committed results into the README: `python -m benchmarks.table`."""

import json
from pathlib import Path

from benchmarks import bars

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "solvers-full.json"
_BEGIN, _END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def updated(readme: str) -> str:
    """`readme` with what lies between the markers replaced."""
    result = json.loads(RESULT.read_text())
    before, rest = readme.split(_BEGIN)
    _, after = rest.split(_END)
    machine, figures = result["machine"], result["figures"]
    losses = ", ".join(f"{100 * loss:.1f}%" for loss in figures["tiles_loss"])
    copies = figures["product_s"][1] * figures["copy_gigabytes_per_s"] * 1e9 / (2 * 4 * 3 * 224 * 224)
    gradient, product = 1e3 * figures["gradient_s"][1], 1e3 * figures["product_s"][1]
    text = (
        f"{bars.table(result)}\n\n"
        f"{machine['cpu']}, one thread, torch {machine['versions']['torch']}, {machine['date'][:10]}. "
        f"A gradient is EfficientNet-Lite0's at 224x224, {gradient:.0f} ms.\n"
        f"What limits `Dual` is the product with its matrix: {product:.2f} ms at 224x224x3, {copies:.0f} times a copy "
        f"of the image at {figures['copy_gigabytes_per_s']:.0f} GB/s.\n"
        f"The tile approximation misses {losses} of the exact objective on the first photographs."
    )
    return f"{before}{_BEGIN}\n{text}\n{_END}{after}"


def main() -> None:
    """Rewrites the README."""
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text()))


if __name__ == "__main__":
    main()
