"""Projections onto a floor's windows by the CPU's kernels, against the torch code."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from percep import Window, kernels
from percep.kernels.cpu.simd import LANES
from percep.solvers.feasibility import _WindowProjections, restore_feasibility
from tests.kernels.test_cg import masks, photographs, program_of, same
from tests.kernels.test_cpu import defined
from tests.support.references import random_like

pytestmark = pytest.mark.usefixtures("many_threads")


def case(count: int, height: int, width: int, window: Window, seed: int) -> tuple[_WindowProjections, Tensor]:
    """A floor, and perturbations that exceed it in many windows, in mean and in deviation."""
    ball = program_of(photographs(count, height, width), window, seed).ball
    delta = (0.02 * random_like(ball.reference, seed) + 0.02).float().clamp(ball.lowest, ball.highest)
    return _WindowProjections(ball.view, ball.floor_sets, 1e-3), delta


def known(projections: _WindowProjections, delta: Tensor) -> Tensor:
    """Pixels away from windows that are about at their radii, whose excess is 0 or a share of the radius."""
    view, sets = projections.view, projections.sets
    moments = view.moments(delta)
    squares = moments.variance_from(sets.contrast.k), moments.mean_from(sets.luminance.k) ** 2
    near = torch.zeros_like(delta)
    for squared, ball in zip(squares, (sets.contrast, sets.luminance), strict=True):
        near = near + ((squared / ball.radius**2 - 1).abs() < 1e-3).float()
    return view.adjoint(view.mean(view.adjoint(near))) == 0


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([Window.gaussian(), Window.gaussian(3, 0.7)]),
    st.tuples(st.integers(6, 70), st.integers(LANES, 150)),
    st.integers(0, 2**31),
)
def test_rounds_are_those_of_torch(window, sides, seed):
    projections, delta = case(2, *sides, window, seed)
    by_torch, _ = case(2, *sides, window, seed)
    for _ in range(2):
        expected = defined(by_torch.project, delta)
        found, compared = projections.project(delta), defined(known, projections, delta)
        same(found * compared, expected * compared)
        assert bool((expected != delta).any())
        delta = expected


def test_excesses_are_those_of_torch():
    projections, delta = case(2, 37, 45, Window.gaussian(), 1)
    delta = delta * masks(True, False)
    launch = kernels.cpu_launcher(delta, projections.view.window)
    found, expected = projections._excesses_by(launch, delta), defined(projections._excesses, delta)
    assert expected.exceeded.flatten().tolist() == [True, False] == found.exceeded.flatten().tolist()
    compared = defined(known, projections, delta)
    for actual, wanted in zip(found[:3], expected[:3], strict=True):
        same(actual * compared, wanted * compared)
    assert bool((expected.luminance != 0).any()) and bool((expected.contrast > 0).any())
    assert not bool((expected.luminance != 0).all()) and not bool((expected.contrast > 0).all())


def test_an_image_is_restored_alone_as_in_a_batch():
    ball = program_of(photographs(3, 50, 61), Window.gaussian(), 1).ball
    delta = (masks(True, False, True) * (0.02 * random_like(ball.reference, 2) + 0.02)).float()
    together = restore_feasibility(ball, delta, 1e-3)
    assert bool((together[0] != delta[0]).any()) and not bool(together[1].any())
    for k in range(3):
        assert torch.equal(restore_feasibility(ball.select(torch.tensor([k])), delta[k : k + 1], 1e-3)[0], together[k])
    disturbed = restore_feasibility(ball, torch.where(masks(False, True, False), torch.nan, delta), 1e-3)
    assert torch.equal(disturbed[::2], together[::2])


@pytest.mark.parametrize("floor_of", ["image", "batch"])
def test_floors_of_images_are_their_own(floor_of):
    projections, delta = case(2, 37, 45, Window.gaussian(), 1)
    if floor_of == "image":
        sets = projections.sets
        scale = torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1)
        for ball in (sets.luminance, sets.contrast):
            object.__setattr__(ball, "k", ball.k * scale)
        projections = _WindowProjections(projections.view, sets, 1e-3)
    by_torch = _WindowProjections(projections.view, projections.sets, 1e-3)
    compared = defined(known, projections, delta)
    assert float(compared.float().mean()) > 0.1
    same(projections.project(delta) * compared, defined(by_torch.project, delta) * compared)


def test_results_do_not_depend_on_the_number_of_threads():
    projections, delta = case(2, 45, 61, Window.gaussian(), 1)
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(_WindowProjections(projections.view, projections.sets, 1e-3).project(delta))
    assert all(torch.equal(results[0], other) for other in results[1:])
