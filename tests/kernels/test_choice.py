"""Which images go to the kernels of a CPU: those of which the benchmark's rows show kernels faster than torch."""

import json

import pytest
import torch

from benchmarks.operations import STRIDED
from percep import Window, kernels
from percep.kernels.cpu import launch as cpu
from tests.core.test_layout import ROOT

ROWS = json.loads((ROOT / "benchmarks" / "results" / "device-cpu.json").read_text(encoding="utf-8"))["rows"]
SIDES = sorted({row["side"] for row in ROWS})


def torch_is_faster(pieces: set[str], side: int) -> bool:
    """With some number of threads, and by more than the quartiles are apart."""
    rows = [row for row in ROWS if row["piece"] in pieces and row["side"] == side]
    assert {row["piece"] for row in rows} == pieces
    return any(row["seconds"][0] > row["torch_seconds"][2] for row in rows)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", STRIDED)
def test_images_that_torch_averages_faster_are_left_to_it(name, side):
    window, image = STRIDED[name], torch.zeros(side, side)
    maps = torch.zeros(window.grid(side, side))
    left = torch_is_faster({f"mean, {name}", f"adjoint, {name}"}, side)
    assert (kernels.launcher_for(image, window) is None) == left
    assert (kernels.launcher_for(maps, window, (side, side)) is None) == left


@pytest.mark.parametrize("side", SIDES)
def test_of_ssim_s_own_window_the_kernels_are_always_faster(side):
    pieces = {"product", "update", "update of a mean", "mean", "adjoint"}
    assert not torch_is_faster(pieces, side)
    assert kernels.fused_launcher(torch.zeros(side, side), Window.gaussian())


@pytest.mark.parametrize(("side", "kernel"), [(96, False), (97, True)])
def test_an_adjoint_is_computed_where_its_mean_is(monkeypatch, side, kernel):
    """By the size of the image: of its windows there are 23 by 23 in both cases."""
    window = STRIDED["8 taps, stride 4, valid"]
    taken = []
    for name in ("mean", "adjoint"):
        monkeypatch.setattr(cpu, name, lambda values, *_, name=name: taken.append(name) or values)
    window.mean(torch.zeros(side, side))
    window.adjoint(torch.zeros(window.grid(side, side)), side, side)
    assert taken == (["mean", "adjoint"] if kernel else [])


def test_the_choice_does_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    chosen = []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        chosen.append([kernels.launcher_for(torch.zeros(224, 224), window) is None for window in STRIDED.values()])
    torch.set_num_threads(before)
    assert chosen[0] == chosen[1]
