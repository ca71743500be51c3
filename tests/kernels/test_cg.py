"""Conjugate gradients over the pixel range by the CPU's kernels, against the torch code."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from percep import Program, SSIMBall, Window, kernels
from percep.kernels.cpu import cg
from percep.kernels.cpu import launch as cpu
from percep.kernels.cpu.cg_iterate import CompiledIterate
from percep.kernels.cpu.multilevel import transfers
from percep.kernels.cpu.simd import LANES
from percep.solvers import Dual
from percep.solvers.box_cg import TorchIterate, iterate_of, maximise, system_of
from percep.solvers.lagrangian import NormalEquations, feasible_multipliers
from percep.solvers.preconditioner import _interpolation
from tests.kernels.test_cpu import defined
from tests.kernels.test_gpu import moat, poisoned
from tests.support.references import photograph, random_like

pytestmark = pytest.mark.usefixtures("many_threads")

WINDOWS = st.sampled_from([Window.gaussian(), Window.gaussian(3, 0.7)])
ROUNDING = 1000 * torch.finfo(torch.float32).eps
"""Of a few hundred operations, relative to the largest value; a step divides by sums that they enter."""


def program_of(images: Tensor, window: Window, seed: int, rho: float = 0.0) -> Program:
    """Of dark images, whose perturbations meet the pixel range."""
    program = Program(SSIMBall(0.2 * images, floor=0.8, window=window), random_like(images, seed), rho)
    return program.normalized()[0]


def photographs(count: int, height: int, width: int) -> Tensor:
    side = max(height, width)
    return torch.cat([photograph(k % 5, side) for k in range(count)]).float()[:, :, :height, :width]


def both(program: Program, seed: int) -> tuple[CompiledIterate, TorchIterate]:
    """The iterate by kernels and the one by torch, at a perturbation that is outside the range in places."""
    equations = NormalEquations(program, feasible_multipliers(program))
    delta = 0.3 * random_like(program.linear, seed).float()
    compiled, by_torch = iterate_of(program, equations, delta), defined(iterate_of, program, equations, delta)
    assert isinstance(compiled, CompiledIterate) and isinstance(by_torch, TorchIterate)
    return compiled, by_torch


def masks(*values: float) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1)


def same(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().amax().clamp_min(1e-30))
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=ROUNDING)


def same_vectors(compiled: CompiledIterate, by_torch: TorchIterate) -> None:
    vectors = compiled._vectors
    same(vectors.delta, by_torch._delta)
    same(vectors.residual, by_torch._residual)
    # A residual of about 0 has either sign.
    known = by_torch._residual.abs() > ROUNDING * by_torch._residual.abs().amax()
    assert bool(((vectors.free_inverse > 0) == (by_torch._free > 0))[known].all())


@settings(max_examples=15, deadline=None)
@given(WINDOWS, st.tuples(st.integers(6, 70), st.integers(LANES, 150)), st.integers(0, 2**31))
def test_operations_are_those_of_torch(window, sides, seed):
    program = program_of(photographs(2, *sides), window, seed)
    compiled, by_torch = both(program, seed + 1)
    every = masks(True, True)
    same(compiled.rhs_weight(), defined(by_torch.rhs_weight))
    for iterate in (compiled, by_torch):
        iterate.restart(every)
    same_vectors(compiled, by_torch)
    weight = defined(by_torch.precondition, every)
    same(compiled.precondition(every), weight)
    same(compiled._vectors.scaled, by_torch._scaled)
    for beta in (0.0, 0.5):
        betas = torch.full_like(weight, beta)
        curvature = defined(by_torch.multiply, betas, every)
        same(compiled.multiply(betas, every), curvature)
        same(compiled._direction, by_torch._direction)
        same(compiled._vectors.product, by_torch._product)
        excursion = defined(by_torch.move, weight / curvature, every)
        same(compiled.move(weight / curvature, every), excursion)
        same_vectors(compiled, by_torch)
        assert torch.equal(compiled.revise_free(every), defined(by_torch.revise_free, every))
        same_vectors(compiled, by_torch)
        weight = defined(by_torch.precondition, every)
        same(compiled.precondition(every), weight)
        same(compiled._vectors.scaled, by_torch._scaled)
    same(compiled.solution(), by_torch.solution())


def test_excursions_are_those_of_torch():
    compiled, by_torch = both(program_of(photographs(2, 37, 45), Window.gaussian(), 1), 2)
    every, lengths = masks(True, True), masks(0.0, 1e3)
    for iterate in (compiled, by_torch):
        iterate.restart(every)
        iterate.precondition(every)
        iterate.multiply(0 * lengths, every)
    excursion = defined(by_torch.move, lengths, every)
    assert float(excursion[0]) == 0 < float(excursion[1])
    same(compiled.move(lengths, every), excursion)


@pytest.mark.parametrize("sizes", [((7, 300), (2, 75), (1, 38)), ((23, 5), (6, 2), (3, 1)), ((9, 9), (1, 1))])
def test_transfers_are_bilinear_interpolation(sizes):
    table = transfers(sizes)
    lengths = [(fine[axis], coarse[axis]) for fine, coarse in pairwise(sizes) for axis in (0, 1)]
    for axis, (fine, coarse) in enumerate(lengths):
        expected = _interpolation(fine, coarse, torch.float32, torch.device("cpu"))
        found, adjoint = torch.zeros(fine, coarse), torch.zeros(coarse, fine)
        for line in range(fine):
            place = table.before_at[axis] + line
            before, share = int(table.before[place]), float(table.fraction[place])
            found[line, before] += 1 - share
            found[line, min(before + 1, coarse - 1)] += share
        for line in range(coarse):
            span = int(table.spans[axis])
            weights = table.weights_at[axis] + line * span
            first = int(table.seen[table.seen_at[axis] + line])
            adjoint[line, first : first + span] += torch.from_numpy(table.weights[weights : weights + span])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(adjoint, expected.T, rtol=0, atol=1e-6)
    bands = [int(table.before[row]) for row in range(sizes[0][0])]
    assert all(table.band_rows[band] <= row < table.band_rows[band + 1] for row, band in enumerate(bands))


def step(iterate: CompiledIterate, chosen: Tensor) -> None:
    """A step of each operation for the chosen images."""
    iterate.rhs_weight()
    iterate.restart(chosen)
    weight = iterate.precondition(chosen)
    curvature = iterate.multiply(torch.zeros_like(weight), chosen)
    iterate.move(torch.where(chosen, weight / curvature, 0.0), chosen)
    iterate.revise_free(chosen)
    iterate.precondition(chosen)


def test_images_that_are_not_chosen_are_not_touched():
    program = program_of(photographs(3, 37, 45), Window.gaussian(), 1)
    chosen = masks(True, False, True)
    compiled, _ = both(program, 2)
    step(compiled, masks(True, True, True))
    kept = [compiled._direction, *compiled._vectors]
    before = [values[1].clone() for values in kept]
    others = [values[::2].clone() for values in kept]
    step(compiled, chosen)
    # The direction is written beside the last one.
    unchanged = [compiled._previous, *compiled._vectors]
    restricted = {id(compiled._vectors.contributions), id(compiled._vectors.corrections)}
    restricted |= {
        id(compiled._vectors.scaled),
        id(compiled._vectors.free_inverse),
    }  # the right-hand side is everybody's
    for values, old in zip(unchanged, before, strict=True):
        assert id(values) in restricted or torch.equal(values[1], old)
    assert any(not torch.equal(values[::2], old) for values, old in zip(kept, others, strict=True))


@pytest.mark.parametrize("tolerance", [1e-3, 0.3])
def test_an_image_is_solved_alone_as_in_a_batch(tolerance):
    """At the second tolerance images stop after different numbers of steps."""
    images, window = photographs(3, 50, 61), Window.gaussian()
    program = program_of(images, window, 1)
    equations = NormalEquations(program, feasible_multipliers(program))
    delta = 0.05 * random_like(images, 3).float()
    together = maximise(program, equations, delta, 30, tolerance)
    disturbed = maximise(program, equations, torch.where(masks(False, True, False), torch.nan, delta), 30, tolerance)
    assert torch.equal(disturbed[::2], together[::2]) and bool(disturbed[1].isnan().any())
    for k in range(3):
        alone = program.select(torch.tensor([k]))
        own = NormalEquations(alone, feasible_multipliers(alone))
        assert torch.equal(maximise(alone, own, delta[k : k + 1], 30, tolerance), together[k : k + 1])


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_maximisers_are_those_of_torch(rho):
    program = program_of(photographs(2, 52, 47), Window.gaussian(), 1, rho)
    equations = NormalEquations(program, feasible_multipliers(program))
    found = maximise(program, equations, torch.zeros_like(program.linear), 200, 1e-5)
    expected = defined(maximise, program, equations, torch.zeros_like(program.linear), 200, 1e-5)
    at_end = (expected == -program.ball.reference) | (expected == 1 - program.ball.reference)
    assert 0.01 < float(at_end.float().mean()) < 0.99
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().amax()))


def test_results_do_not_depend_on_the_number_of_threads():
    program = program_of(photographs(2, 45, 61), Window.gaussian(), 1)
    equations = NormalEquations(program, feasible_multipliers(program))
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(maximise(program, equations, torch.zeros_like(program.linear), 30, 1e-3, 0.1))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_nothing_is_written_beside_the_vectors():
    program = program_of(photographs(2, 33, 41), Window.gaussian(), 1)
    compiled, _ = both(program, 2)
    made = [poisoned(tuple(values.shape), torch.float32, 0).copy_(values) for values in compiled._vectors]
    compiled._vectors = cg.Vectors(*made)
    compiled._at = cpu.addresses(compiled._vectors)
    compiled._direction, compiled._previous = (poisoned(program.linear.shape, torch.float32, 0) for _ in range(2))
    step(compiled, masks(True, True))
    for values in (*compiled._vectors, compiled._direction):
        assert bool(torch.isfinite(values).all()) and bool(moat(values).isnan().all())


@pytest.mark.parametrize(
    ("window", "dtype", "choice"),
    [
        (Window.uniform(8), torch.float32, "auto"),
        (Window.gaussian(), torch.float64, "auto"),
        (Window.gaussian(), torch.float32, "torch"),
        (Window.gaussian(), torch.float32, "triton"),
    ],
)
def test_other_windows_dtypes_and_choices_are_left_to_torch(monkeypatch, window, dtype, choice):
    images = photographs(1, 40, 40).to(dtype)
    program = program_of(images, window, 1)
    equations = NormalEquations(program, feasible_multipliers(program))
    system = system_of(program, equations, torch.zeros_like(images))
    monkeypatch.setenv(kernels.CHOICE, choice)
    assert kernels.cg_iterate(system) is None


@pytest.mark.slow("whole solves, by the kernels and by torch")
def test_solves_take_as_many_iterations_as_by_torch():
    program = program_of(photographs(2, 64, 64), Window.gaussian(), 3)
    solution, expected = Dual().solve(program, 1e-2), defined(Dual().solve, program, 1e-2)
    assert solution.status == expected.status
    torch.testing.assert_close(solution.objective, expected.objective, rtol=1e-2, atol=0)
