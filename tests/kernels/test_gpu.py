"""The Triton kernels in Triton's interpreter against the torch code, with NaN all around what they may touch."""

import itertools
import os
import subprocess
import sys
from importlib import import_module
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from benchmarks.gpu.interpreter import interpreted
from benchmarks.traffic import product_bytes
from percep import InputError, Program, SSIMBall, Window, kernels
from percep.ball.batch import per_image
from percep.kernels.arguments import SystemArguments
from percep.kernels.gpu import graphs
from percep.kernels.gpu.tiling import of_moments, of_pixels, of_products, of_windows, pixels_seen, windows_seen
from percep.solvers import Dual, box_cg, dual
from percep.solvers.lagrangian import NormalEquations, feasible_multipliers
from tests.support.references import LEVELS, photograph, random_like


def windows_up_to(size: int) -> SearchStrategy[Window]:
    """Windows of up to so many taps."""
    return st.builds(
        lambda gaussian, size, stride, padding: (
            Window.gaussian(size, size / 6, min(stride, size), padding)
            if gaussian
            else Window.uniform(size, min(stride, size), padding)
        ),
        st.booleans(),
        st.integers(1, size),
        st.integers(1, size),
        st.sampled_from(["reflect", "valid"]),
    )


# Triton's interpreter takes as long for a tap as for a block.
WINDOWS = windows_up_to(12)
DTYPES = st.sampled_from([torch.float32, torch.float64])
PLANES = st.sampled_from([(2, 1), (1, 2)])
# The interpreter is slow; to shrink an example would take minutes.
SLOW = settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
# Values between an image and the end of the memory it lies in.
MOAT = 300


@pytest.fixture(autouse=True)
def kernels_are_interpreted(one_thread):
    """`tests/conftest.py` asks for Triton's interpreter."""
    assert os.environ["TRITON_INTERPRET"] == "1"
    with interpreted():
        yield


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Random values in the middle of memory that holds NaN."""
    memory = torch.full((2 * MOAT + torch.Size(shape).numel(),), torch.nan, dtype=dtype)
    values = memory[MOAT : len(memory) - MOAT].view(shape)
    return values.copy_(torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)))


def moat(values: Tensor) -> Tensor:
    """The memory around `poisoned` values."""
    memory = values.new_empty(0).set_(values.untyped_storage())
    return torch.cat([memory[:MOAT], memory[len(memory) - MOAT :]])


def close(actual: Tensor, expected: Tensor) -> None:
    """Equal to the rounding of a few hundred operations on values of order 1."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=200 * torch.finfo(expected.dtype).eps)


def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.CHOICE, "torch")


@pytest.mark.slow("Triton's interpreter, over random shapes and windows")
@SLOW
@example(Window.gaussian(31, 5.0), 8, 4, (1, 1), torch.float32, 0, False)
@given(WINDOWS, st.integers(1, 64), st.integers(1, 100), PLANES, DTYPES, st.integers(0, 2**31), st.booleans())
def test_means_adjoints_and_products_are_those_of_torch(window, height, width, planes, dtype, seed, tap_by_tap):
    height, width = height + window.size - 1, width + window.size - 1
    rows, columns = window.grid(height, width)
    values = poisoned((*planes, height, width), dtype, seed)
    maps = poisoned((*planes, rows, columns), dtype, seed + 1)
    diagonal = poisoned((*planes, height, width), dtype, seed + 2)
    result = poisoned((*planes, height, width), dtype, seed + 3)
    launch = kernels.launcher_for(values, window)
    with mock.patch.object(launch, "TAP_BY_TAP", tap_by_tap):
        mean = launch.mean(values, window, window.taps)
        spread = launch.adjoint(maps, window, window.taps, height, width)
        active = torch.ones(len(values), dtype=torch.int32)
        curvature = launch._product(SystemArguments(values, diagonal, maps), active, result, window)
    assert bool(moat(result).isnan().all())
    with pytest.MonkeyPatch.context() as patch:
        by_torch(patch)
        expected = diagonal * values + window.adjoint(maps * window.mean(values), height, width)
        close(mean, window.mean(values))
        close(spread, window.adjoint(maps, height, width))
    close(result, expected)
    scale = float(per_image((values * expected).abs()).max())
    close(curvature / scale, per_image(values * expected) / scale)


SMALLER = (Window.gaussian(), Window.uniform(8, 4, "valid"))
MANY_TILES = pytest.mark.slow("Triton interprets the tiles one after the other")


@pytest.mark.parametrize(
    ("window", "height", "width"),
    [
        *((window, 7, 6) for window in SMALLER),
        *(
            pytest.param(window, *sides, marks=MANY_TILES)
            for window in SMALLER
            for sides in ((65, 40), (20, 129), (131, 250))
        ),
        # Three tiles along either axis, of which the second meets no border.
        *(pytest.param(Window.gaussian(31, 5.0), *sides, marks=MANY_TILES) for sides in ((7, 6), (131, 31), (31, 250))),
    ],
)
@pytest.mark.parametrize("tap_by_tap", [False, True])
def test_every_tile_is_met(monkeypatch, window, height, width, tap_by_tap):
    monkeypatch.setattr(import_module("percep.kernels.gpu.launch"), "TAP_BY_TAP", tap_by_tap)
    height, width = max(height, window.size), max(width, window.size)
    values = poisoned((1, 1, height, width), torch.float32, 1)
    mean = window.mean(values)
    adjoint = window.adjoint(mean, height, width)
    with pytest.MonkeyPatch.context() as patch:
        by_torch(patch)
        close(mean, window.mean(values))
        close(adjoint, window.adjoint(window.mean(values), height, width))


@pytest.mark.slow("Triton's interpreter, for every plane")
def test_strided_and_expanded_tensors_are_read_as_they_are(monkeypatch):
    window = Window.gaussian(5)
    values = torch.randn(2, 30, 2, 41).permute(0, 2, 3, 1)  # (2, 2, 41, 30)
    inner = torch.randn(1, 1, 41, 30)
    assert not values.is_contiguous()
    mean, spread = window.mean(values), window.adjoint(values, 41, 30)
    product, curvature = kernels.launcher_for(values, window).product(values, torch.tensor(2.0), inner, window)
    by_torch(monkeypatch)
    close(mean, window.mean(values))
    close(spread, window.adjoint(values, 41, 30))
    close(product, 2 * values + window.adjoint(inner * window.mean(values), 41, 30))
    torch.testing.assert_close(curvature, per_image(values * product))


@pytest.mark.slow("Triton's interpreter, for three images together and alone")
def test_images_that_are_not_active_are_neither_read_nor_written():
    window = Window.gaussian(5)
    values = poisoned((3, 1, 20, 25), torch.float32, 1)
    others = [values[i : i + 1].clone() for i in range(3)]
    values[1] = torch.nan
    result = torch.full_like(values, 7.0)
    launch, active = kernels.launcher_for(values, window), torch.tensor([True, False, True])
    product, curvature = launch.product(values, values, values, window, active)
    assert not product[1].any() and float(curvature[1]) == 0
    again = launch._product(SystemArguments(values, values, values), active.int(), result, window)
    assert torch.equal(result[[0, 2]], product[[0, 2]]) and torch.equal(again, curvature)
    assert bool((result[1] == 7).all())
    for image in (0, 2):
        alone, its = kernels.launcher_for(values, window).product(*[others[image]] * 3, window)
        assert torch.equal(alone[0], product[image]) and torch.equal(its[0], curvature[image])


def test_empty_batches_are_empty():
    window = Window.gaussian()
    for shape in ((0, 3, 20, 20), (2, 0, 20, 20)):
        empty = torch.zeros(shape)
        assert window.mean(empty).shape == shape and window.adjoint(empty, 20, 20).shape == shape
        product, curvature = kernels.launcher_for(empty, window).product(empty, empty, empty, window)
        assert product.shape == shape and curvature.tolist() == torch.zeros(shape[0], 1, 1, 1).tolist()


@pytest.mark.slow("Triton's interpreter, for programs together and alone")
def test_sums_do_not_depend_on_how_many_programs_there_are(monkeypatch):
    window = Window.gaussian(3)
    values = poisoned((2, 1, 70, 150), torch.float32, 3)
    launch = kernels.launcher_for(values, window)
    few = launch.product(values, values, values, window)
    monkeypatch.setattr(launch, "_PROGRAMS", 7)
    many = launch.product(values, values, values, window)
    assert torch.equal(few[0], many[0]) and torch.equal(few[1], many[1])


@pytest.mark.slow("Triton's interpreter, over random levels and windows")
@SLOW
@given(WINDOWS, st.sampled_from([*LEVELS, "map"]), DTYPES, st.integers(0, 2**31), st.booleans())
def test_updates_are_those_of_torch(window, level, dtype, seed, tap_by_tap):
    x = torch.cat([photograph(seed % 5, 17), 0.5 * photograph(seed % 5 + 1, 17)]).to(dtype)[:, :1, :, :16]
    levels = LEVELS.get(level) or {"floor": torch.linspace(0.9, 0.97, x[0, 0].numel()).reshape(1, 1, 17, 16)}
    if level == "map" and window.grid(17, 16) != (17, 16):
        levels = {"floor": torch.tensor([0.9, 0.97])}
    program = Program(SSIMBall(x, window=window, **levels), random_like(x, seed))
    state = dual._State(program, feasible_multipliers(program), 0.05 * random_like(x, seed + 1).to(dtype))
    state.acceleration = torch.tensor([1.0, 0.25], dtype=dtype).reshape(-1, 1, 1, 1)
    state.last_step = state.last_step.map(lambda v: 0.1 * random_like(v.clone(), seed + 2).to(dtype))
    exponent, repeated = 0.5 + 0.3 * state.acceleration, 0.8 * state.acceleration
    launch = import_module("percep.kernels.gpu.launch")
    with mock.patch.object(launch, "TAP_BY_TAP", tap_by_tap):
        fused = state._fused_step(launch, exponent, repeated)
    with pytest.MonkeyPatch.context() as patch:
        by_torch(patch)
        defined = state._step(exponent, repeated)
        defined_at = state.violations()
    eps = torch.finfo(dtype).eps
    for part, (mine, other) in enumerate(zip(fused, defined, strict=True)):
        for name in ("luminance", "contrast", "mean"):
            actual, expected = getattr(mine, name), getattr(other, name)
            assert (actual is None) == (expected is None)
            if actual is not None:
                # A logarithm of a difference of moments: where it nearly vanishes, only its size is known.
                known = (getattr(defined_at, name) > -3).expand(expected.shape)
                scale = expected.abs().amax().clamp_min(eps) if part else 1.0
                worst = ((actual - expected).abs() * known).amax() / scale
                assert float(worst) < 2e4 * eps
                assert bool(torch.isfinite(actual).all())


@pytest.mark.slow("Triton's interpreter, for every product of an iteration")
def test_an_iteration_through_the_kernels_is_that_of_torch(monkeypatch):
    x = photograph(3, 14)[:, :1]
    program = Program(SSIMBall(x, floor=0.95, window=Window.gaussian(5, 1.0)), random_like(x, 1))
    fused = dual._State(program, feasible_multipliers(program), torch.zeros_like(x))
    defined = fused.replaced(fused.tensors())
    dual._iterated(Dual(), 3, fused, 0.5)
    by_torch(monkeypatch)
    dual._iterated(Dual(), 3, defined, 0.5)
    for mine, other in zip(fused.tensors(), defined.tensors(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)


@pytest.mark.slow("Triton's interpreter, for every iteration of a solve")
def test_a_solve_through_the_kernels_and_its_certificate_are_those_of_torch(monkeypatch):
    x = photograph(3, 12).float()[:, :1]
    program = Program(SSIMBall(x, floor=0.95, mean=0.99, window=Window.gaussian(5, 1.0)), random_like(x, 1))
    solver = Dual(check_every=3)
    mine = solver.solve(program, 0.1)
    by_torch(monkeypatch)
    expected = solver.solve(program, 0.1)
    assert mine.status == expected.status and mine.iterations.tolist() == expected.iterations.tolist()
    torch.testing.assert_close(mine.objective, expected.objective, rtol=1e-5, atol=0)
    torch.testing.assert_close(mine.bound, expected.bound, rtol=1e-5, atol=0)


@pytest.mark.slow("Triton's interpreter")
def test_derivatives_through_the_kernels_are_adjoints():
    window = Window.gaussian(5, stride=2)
    values = torch.randn(1, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    maps = torch.randn(1, 1, *window.grid(6, 7), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(window.mean, values, fast_mode=True)
    assert torch.autograd.gradcheck(lambda u: window.adjoint(u, 6, 7), maps, fast_mode=True)


@pytest.mark.slow("Triton's interpreter")
@pytest.mark.parametrize(
    ("window", "height", "width"), [(Window.gaussian(), 70, 130), (Window.gaussian(4, stride=3), 50, 40)]
)
def test_the_product_moves_the_bytes_it_is_said_to(monkeypatch, window, height, width):
    builder = import_module("triton.runtime.interpreter").InterpreterBuilder
    launch = import_module("percep.kernels.gpu.launch")
    monkeypatch.setattr(launch, "_PROGRAMS", 1000)  # a program for every tile
    touched: dict[tuple[int, ...], list] = {}

    def watched(name):
        original = getattr(builder, name)

        def call(self, pointers, *arguments):
            mask = next(a for a in arguments if a.data.dtype == bool) if name.startswith("create_masked") else None
            data = pointers.data if mask is None else pointers.data[mask.data]
            touched.setdefault(tuple(self.grid_idx), []).append((name, data.ravel()))
            return original(self, pointers, *arguments)

        monkeypatch.setattr(builder, name, call)

    values, diagonal = torch.randn(1, 1, height, width), torch.randn(1, 1, height, width)
    inner, result = torch.randn(1, 1, *window.grid(height, width)), torch.zeros(1, 1, height, width)
    watched("create_masked_load")
    watched("create_masked_store")
    launch._product(SystemArguments(values, diagonal, inner), torch.ones(1, dtype=torch.int32), result, window)
    moved = 0
    for calls in touched.values():
        for tensor in (values, diagonal, inner, result):
            start, stop = tensor.data_ptr(), tensor.data_ptr() + 4 * tensor.numel()
            places = {place for _, data in calls for place in data.tolist() if start <= place < stop}
            moved += 4 * len(places)
    assert moved == product_bytes(window, height, width)


@pytest.mark.parametrize("height", [16, 40, 224])
@pytest.mark.parametrize("size", [1, 2, 8, 11, 30, 31])
def test_blocks_hold_what_a_tile_needs(size, height):
    for stride, padding in itertools.product((1, 2, size), ("reflect", "valid")):
        window = Window.uniform(size, min(stride, size), padding)
        if (padding == "valid" and height < size) or height <= size // 2:
            continue
        for kind in (of_windows, of_moments, of_pixels, of_products):
            tiling = kind(window, height, height, 4)
            assert all(1 <= tile <= block for tile, block in zip(tiling.tile, tiling.block, strict=True))
            assert all(block & (block - 1) == 0 for block in tiling.block)
        seen = _pass(window, height) > 0
        assert int(_span(seen).max()) <= pixels_seen(window)
        assert int(_span(seen.T).max()) <= windows_seen(window)


def _pass(window: Window, length: int) -> Tensor:
    """One pass as a matrix."""
    with pytest.MonkeyPatch.context() as patch:
        by_torch(patch)
        return window._matrix(window.taps, length, torch.zeros((), dtype=torch.float64))


def _span(seen: Tensor) -> Tensor:
    """From the first to the last True of each row that has one."""
    seen = seen[seen.any(1)].int()
    return seen.shape[1] - seen.flip(1).argmax(1) - seen.argmax(1)


def test_the_choice_is_one_variable(monkeypatch):
    window, values = Window.gaussian(), torch.zeros(2, 2)
    assert kernels.launcher_for(values, window) and kernels.fused_launcher(values, Window.uniform(8))
    assert not kernels.launcher_for(values.half(), window) and not kernels.launcher_for(values, Window.uniform(32))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(InputError, match="interpreter"):
        kernels.launcher_for(values, window)
    monkeypatch.setenv(kernels.CHOICE, "cuda")
    with pytest.raises(InputError, match="auto, torch, triton"):
        kernels.launcher_for(values, window)
    for choice in ("auto", "torch"):
        monkeypatch.setenv(kernels.CHOICE, choice)
        assert not kernels.launcher_for(values, window)


@pytest.mark.multiprocess
@pytest.mark.slow("a fresh Python imports torch")
def test_importing_and_solving_on_a_cpu_does_not_import_triton():
    code = (
        "import sys, torch, percep; x = torch.rand(1, 1, 16, 16)\n"
        "before = 'triton' in sys.modules\n"
        "percep.solve(percep.Program(percep.SSIMBall(x, floor=0.9), x), tol=0.1)\n"
        "assert 'percep.kernels.gpu.triton_kernels' not in sys.modules; print(before or 'triton' not in sys.modules)"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in (kernels.CHOICE, "TRITON_INTERPRET")
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "True"


def test_steps_without_questions_to_the_device_are_the_same_steps(monkeypatch):
    """What a CUDA graph records: every branch taken, none of which does anything where its mask is empty."""
    by_torch(monkeypatch)
    x = torch.cat([photograph(3, 24), 0.2 * photograph(4, 24)])
    program = Program(SSIMBall(x, floor=0.9), 3 * random_like(x, 1))
    asked = dual._State(program, feasible_multipliers(program), torch.zeros_like(x))
    recorded = asked.replaced(asked.tensors())
    for _ in range(3):
        dual._iterated(Dual(), 12, asked, 0.5)
        with monkeypatch.context() as patch:
            patch.setattr(box_cg, "any_set", lambda mask: True)
            dual._iterated(Dual(), 12, recorded, torch.full_like(recorded.acceleration, 0.5))
        for mine, other in zip(recorded.tensors(), asked.tensors(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
    assert not graphs.any_set(torch.zeros(3, dtype=torch.bool)) and graphs.any_set(torch.ones(1, dtype=torch.bool))


@pytest.mark.slow("Triton's interpreter, for every product")
def test_the_system_s_product_and_its_inner_product_go_together():
    x = photograph(2, 20).float()[:, :1]
    program = Program(SSIMBall(x, floor=0.9, mean=0.99, window=Window.gaussian(5, 1.0)), random_like(x, 1))
    equations = NormalEquations(program, feasible_multipliers(program))
    values = random_like(x, 2)
    product, curvature = equations.curved(values)
    torch.testing.assert_close(equations.product(values), product, rtol=0, atol=0)
    torch.testing.assert_close(curvature, per_image(values * product), rtol=1e-5, atol=0)
    with pytest.MonkeyPatch.context() as patch:
        by_torch(patch)
        torch.testing.assert_close(
            equations.product(values), product, rtol=1e-4, atol=1e-5 * float(product.abs().max())
        )
