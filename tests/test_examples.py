"""The example runs at a small scale, keeps its promises and leaves its files."""

import json

import pytest
import torch

from examples.generator import run


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
