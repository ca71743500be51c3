"""The generator runs at a small scale and leaves its files; scripts print what the documentation shows."""

import json
import re
from pathlib import Path

import pytest
import torch

from examples import gallery
from examples.generator import run


@pytest.mark.slow("trains a generator, through the layer")
@pytest.mark.filterwarnings("error::percep.AdjointWarning")
def test_generator(tmp_path):
    results = run(tmp_path, mean=0.9, steps=3, batch=2, side=64, held_out=1, most=4)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == results and (tmp_path / "generator.jpg").stat().st_size > 10_000
    for name, count in (("trained on", 3), ("held out", 1)):
        assert results[name]["photographs"] == count
        for attack in ("one pass", "iterated", "random linear term"):
            found = results[name][attack]
            assert found["within"] == 1.0 and 0 <= found["success"] <= 1
    assert torch.is_grad_enabled()


@pytest.mark.slow("what is shown is of the real networks, on whole photographs")
@pytest.mark.parametrize("script", gallery.SCRIPTS)
def test_scripts_print_what_is_shown(script: str, tmp_path: Path) -> None:
    """Words and whole numbers as they are; what is measured to a quarter, as it differs between processors."""
    printed = gallery.run(script, tmp_path / "picture.jpg")
    shown = (gallery.KEPT / f"{script}.txt").read_text()
    measured = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?")
    assert measured.sub("", printed) == measured.sub("", shown)
    found, kept = (list(map(float, measured.findall(text))) for text in (printed, shown))
    assert found == pytest.approx(kept, rel=0.25)
    assert (tmp_path / "picture.jpg").stat().st_size > 10_000
