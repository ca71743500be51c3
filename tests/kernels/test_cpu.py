"""The CPU's kernels against the torch code, with NaN all around what they may read."""

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numba import njit, typeof
from torch import Tensor
from torch.autograd import forward_ad

from percep import InputError, Program, SSIMBall, Window, kernels
from percep.ball.batch import per_image
from percep.kernels.arguments import (
    ConstraintArguments,
    EllipsoidArguments,
    FloorArguments,
    ImageArguments,
    StepSizes,
    SystemArguments,
    UpdateArguments,
)
from percep.kernels.cpu import compile as jit
from percep.kernels.cpu import launch as cpu
from percep.kernels.cpu import plans, symmetric, update
from percep.kernels.cpu.openmp import share
from percep.kernels.cpu.simd import LANES, load, store
from percep.solvers import Dual, dual
from percep.solvers.lagrangian import dual_bound, feasible_multipliers
from percep.solvers.quadratic import WindowQuadratic
from tests.kernels.test_gpu import by_torch, close, moat, poisoned, windows_up_to
from tests.support.references import LEVELS, photograph, random_like

pytestmark = pytest.mark.usefixtures("many_threads")

# Every number of taps is compiled for itself.
OWN_ADJOINTS = st.builds(lambda half: Window.gaussian(2 * half + 1, (half + 1) / 3), st.sampled_from([0, 1, 5, 9, 15]))
SIDES = st.tuples(st.integers(1, 70), st.integers(1, 150))


def defined(function, *arguments):
    """What the torch code makes of it."""
    with pytest.MonkeyPatch.context() as patch:
        by_torch(patch)
        return function(*arguments)


def _called(function, *arguments):
    return function(*arguments)


def program_of(x: Tensor, levels: dict, seed: int, window: Window | None = None) -> Program:
    ball = SSIMBall(x, **levels) if window is None else SSIMBall(x, window=window, **levels)
    return Program(ball, random_like(x, seed))


def iterate(program: Program, seed: int) -> dual._State:
    """In the middle of a solve."""
    x = program.ball.reference
    state = dual._State(program, feasible_multipliers(program), 0.05 * random_like(x, seed))
    state.acceleration = torch.linspace(1, 0.25, len(x), dtype=x.dtype).reshape(-1, 1, 1, 1)
    state.last_step = state.last_step.map(lambda values: 0.1 * random_like(values.clone(), seed + 2).to(x.dtype))
    return state


@pytest.mark.slow("many random images, windows and numbers of planes")
@settings(max_examples=60, deadline=None)
@given(windows_up_to(31), SIDES, st.sampled_from([(), (2, 3), (5,)]), st.booleans(), st.integers(0, 2**31))
def test_means_and_adjoints_are_those_of_torch(window, sides, planes, squared, seed):
    least = window.margins[1] if window.padding == "reflect" else window.size - 1
    height, width = (side + least for side in sides)
    values = poisoned((*planes, height, width), torch.float32, seed)
    maps = poisoned((*planes, *window.grid(height, width)), torch.float32, seed + 1)
    mean, adjoint = (window.squared_mean, window.squared_adjoint) if squared else (window.mean, window.adjoint)
    assert kernels.launcher_for(values, window)
    close(mean(values), defined(mean, values))
    close(adjoint(maps, height, width), defined(adjoint, maps, height, width))


@settings(max_examples=30, deadline=None)
@given(OWN_ADJOINTS, SIDES, st.integers(0, 2**31))
def test_products_are_those_of_torch(window, sides, seed):
    height, width = (side + window.size // 2 for side in sides)
    width = max(width, LANES)
    values, diagonal, inner = (poisoned((2, 3, height, width), torch.float32, seed + k) for k in range(3))
    assert kernels.fused_launcher(values, window)
    product, curvature = cpu.product(values, diagonal, inner, window)
    expected = diagonal * values + defined(window.adjoint, inner * defined(window.mean, values), height, width)
    close(product, expected)
    scale = float(per_image((values * expected).abs()).max())
    close(curvature / scale, per_image(values * expected) / scale)


@pytest.mark.parametrize("size", [1, 3, 11, 31])
def test_a_window_that_is_its_own_adjoint_is_that_up_to_the_borders(size):
    window, length = Window.gaussian(size, size / 6), 20
    assert window.is_own_adjoint
    matrix = window._matrix(window.taps, length, torch.zeros((), dtype=torch.float64))
    scale = torch.ones(length, dtype=torch.float64)
    scale[0] = scale[-1] = 0.5
    torch.testing.assert_close(scale[:, None] * matrix / scale, matrix.T, rtol=0, atol=1e-15)
    others = Window.uniform(8), Window.gaussian(stride=2), Window.gaussian(padding="valid"), Window((0.2, 0.3, 0.5))
    assert not any(other.is_own_adjoint for other in others)


@settings(max_examples=30, deadline=None)
@given(OWN_ADJOINTS, SIDES, st.integers(0, 2**31))
def test_nothing_is_written_beside_the_results(window, sides, seed):
    height, width = (side + window.size // 2 for side in sides)
    width = max(width, LANES)
    both = plans.both(window, window.taps, height, width)
    values, diagonal, inner = (poisoned((2, height, width), torch.float32, seed + k) for k in range(3))
    result, curvature = poisoned((2, height, width), torch.float32, 0), poisoned((2,), torch.float32, 0)
    system, chosen = cpu.addresses(SystemArguments(values, diagonal, inner)), np.arange(2)
    cpu._run(symmetric.product, values, system, result, curvature, chosen, 1, both)
    for written in (result, curvature):
        assert bool(torch.isfinite(written).all()) and bool(moat(written).isnan().all())
    for kernel, way in ((symmetric.mean, window.mean), (symmetric.adjoint, window.adjoint)):
        result.fill_(torch.nan)
        cpu._run(kernel, values, values, result, both)
        close(result, defined(way, values, *((height, width) if kernel is symmetric.adjoint else ())))
        assert bool(moat(result).isnan().all())
    multipliers, steps = ([poisoned((2, height, width), torch.float32, 0) for _ in range(2)] for _ in range(2))
    norms, positive = poisoned((2,), torch.float32, 0), values.abs() + 0.5
    read = positive, positive, positive, values
    given = UpdateArguments(
        ImageArguments(values, diagonal, positive, positive),
        FloorArguments(*(ConstraintArguments(*read, *made) for made in zip(multipliers, steps, strict=True)), 0, 1),
        EllipsoidArguments(positive, positive),
        StepSizes(positive, positive),
    )
    cpu._run(update.update, values, cpu.addresses(given), norms, 1, update.Parts(True, 0.3, True), both)
    for written in (*multipliers, *steps, norms):
        assert bool(torch.isfinite(written).all()) and bool(moat(written).isnan().all())
    for made in multipliers:
        each = made.flatten(1)
        assert bool((each.amin(1) >= 0.3 * each.amax(1) * (1 - 1e-6)).all())


@pytest.mark.slow("many random images, windows and numbers of planes")
@settings(max_examples=40, deadline=None)
@given(OWN_ADJOINTS, st.sampled_from([*LEVELS, "map"]), st.integers(0, 2**31))
def test_updates_are_those_of_torch(window, level, seed):
    x = torch.cat([photograph(seed % 5, 31), 0.5 * photograph(seed % 5 + 1, 31)]).float()[:, :, :29, :]
    levels = LEVELS.get(level) or {"floor": torch.linspace(0.9, 0.97, x[0, 0].numel()).reshape(1, 1, 29, 31)}
    state = iterate(program_of(x, levels, seed, window), seed + 1)
    rates = 0.5 + 0.3 * state.acceleration, 0.8 * state.acceleration
    assert kernels.fused_launcher(state.delta, window)
    fused, expected, violations = (
        state._fused_step(cpu, *rates),
        defined(state._step, *rates),
        defined(state.violations),
    )
    eps = torch.finfo(torch.float32).eps
    for place, (mine, other) in enumerate(zip(fused, expected, strict=True)):
        for name in ("luminance", "contrast", "mean"):
            actual, wanted = getattr(mine, name), getattr(other, name)
            assert (actual is None) == (wanted is None)
            if actual is not None:
                # A logarithm of a difference of moments: where it nearly vanishes, only its size is known.
                known = (getattr(violations, name) > -3).expand(wanted.shape)
                scale = wanted.abs().amax().clamp_min(eps) if place else 1.0
                assert float((((actual - wanted).abs() * known) / scale).amax()) < 2e4 * eps
                assert bool(torch.isfinite(actual).all())


@pytest.mark.parametrize(
    "window",
    [Window.gaussian(), Window.gaussian(9, 1.5), Window.uniform(8), Window.gaussian(5, stride=3, padding="valid")],
)
def test_nan_stays_in_its_image(window):
    x = torch.cat([photograph(k, 37) for k in range(3)]).float()
    spoilt = x.clone()
    spoilt[1] = torch.nan
    clean = [0, 2]
    maps, spoilt_maps = window.mean(x), window.mean(spoilt)
    assert torch.equal(maps[clean], spoilt_maps[clean]) and bool(spoilt_maps[1].isnan().all())
    assert torch.equal(window.adjoint(maps, 37, 37)[clean], window.adjoint(spoilt_maps, 37, 37)[clean])
    if window.is_own_adjoint:
        active = torch.tensor([True, False, True]).reshape(3, 1, 1, 1)
        right, wrong = (cpu.product(v, v, v, window, active) for v in (x, spoilt))
        assert torch.equal(right[0], wrong[0]) and torch.equal(right[1], wrong[1])
        assert not right[0][1].any() and float(right[1][1]) == 0
        alone = cpu.product(*[x[:1]] * 3, window)
        assert torch.equal(alone[0], right[0][:1]) and torch.equal(alone[1], right[1][:1])
        state = iterate(program_of(x, {"floor": 0.9, "mean": 0.97}, 1, window), 2)
        rates = 0.5 + 0.3 * state.acceleration, 0.8 * state.acceleration
        before = state._fused_step(cpu, *rates)
        state.delta = torch.where(torch.tensor([False, True, False]).reshape(3, 1, 1, 1), torch.nan, state.delta)
        after = state._fused_step(cpu, *rates)
        for mine, other in zip(before, after, strict=True):
            for name in ("luminance", "contrast", "mean"):
                assert torch.equal(getattr(mine, name)[clean], getattr(other, name)[clean])
                assert bool(getattr(other, name)[1].isnan().any())
        state.delta = torch.where(state.delta.isnan(), 0.0, state.delta)
        state.delta[1, 0, 5, 5] = torch.nan  # reaches some windows, whose largest multiplier then is a floor for all
        found, expected = state._fused_step(cpu, *rates)[1], defined(state._step, *rates)[1]
        for name in ("luminance", "contrast"):
            assert torch.equal(getattr(found, name).isnan(), getattr(expected, name).isnan())
            assert bool(getattr(found, name)[1].isnan().all())


@pytest.mark.parametrize("window", [Window.gaussian(), Window.uniform(8, 3)])
def test_results_do_not_depend_on_the_number_of_threads(window):
    x = torch.cat([photograph(k, 45) for k in range(2)]).float()
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        maps = window.mean(x)
        results.append([maps, window.adjoint(maps, 45, 45)])
        if window.is_own_adjoint:
            state = iterate(program_of(x, {"floor": 0.9, "mean": 0.97}, 1), 2)
            steps, raised = state._fused_step(cpu, 0.5 + 0.3 * state.acceleration, 0.8 * state.acceleration)
            results[-1] += [*cpu.product(x, x, x, window), *steps.present(), *raised.present()]
    for other in results[1:]:
        assert all(torch.equal(mine, its) for mine, its in zip(results[0], other, strict=True))


def test_strided_and_expanded_tensors_are_read_as_they_are():
    window = Window.gaussian()
    values = torch.randn(3, 30, 2, 41).permute(0, 2, 3, 1)  # (3, 2, 41, 30)
    inner = torch.randn(1, 1, 41, 30)
    assert not values.is_contiguous()
    product, curvature = cpu.product(values, torch.tensor(2.0), inner, window)
    close(window.mean(values), defined(window.mean, values))
    close(product, 2 * values + defined(window.adjoint, inner * defined(window.mean, values), 41, 30))
    torch.testing.assert_close(curvature, per_image(values * product))


def test_a_planned_kernel_finds_its_types_at_the_first_call_only(monkeypatch):
    typed = []
    monkeypatch.setattr(plans, "typeof", lambda value: typed.append(value) or typeof(value))
    for function in (plans.symmetric_kernel, plans.strided_mean, plans.strided_adjoint):
        function.cache_clear()
    x = photograph(2, 47).float()
    for window in (Window.gaussian(), Window.uniform(8, stride=3)):
        typed.clear()
        maps = window.mean(x)
        adjoint = window.adjoint(maps, 47, 47)
        assert typed
        typed.clear()
        assert torch.equal(window.mean(x), maps) and torch.equal(window.adjoint(maps, 47, 47), adjoint)
        assert not typed
        window.mean(x[..., :40])
        assert typed


def test_planned_kernels_are_those_that_numba_finds_itself():
    window, x = Window.gaussian(), photograph(2, 47).float()
    passes = plans.both(window, window.taps, 47, 47)
    planned, dispatched = (torch.empty_like(x) for _ in range(2))
    for _ in range(2):
        cpu._run(plans.symmetric_kernel(symmetric.mean, window, window.taps, 47, 47), x, x, planned)
    cpu._run(symmetric.mean, x, x, dispatched, passes)
    assert torch.equal(planned, dispatched)


def test_empty_batches_are_empty():
    for window in (Window.gaussian(), Window.uniform(8)):
        for shape in ((0, 3, 20, 20), (2, 0, 20, 20)):
            empty = torch.zeros(shape)
            maps = window.mean(empty)
            assert maps.shape[:2] == shape[:2] and window.adjoint(maps, 20, 20).shape == shape
    product, curvature = cpu.product(*[torch.zeros(0, 3, 20, 20)] * 3, Window.gaussian())
    assert product.shape == (0, 3, 20, 20) and curvature.shape == (0, 1, 1, 1)


def test_derivatives_through_the_kernels_are_adjoints():
    window = Window.gaussian(5)
    values = torch.randn(1, 1, 6, 7, requires_grad=True)
    weights = torch.randn(1, 1, 6, 7)
    for function, transposed in ((window.mean, window.adjoint), (window.adjoint, lambda u, *size: window.mean(u))):
        arguments = () if function == window.mean else (6, 7)
        (gradient,) = torch.autograd.grad((function(values, *arguments) * weights).sum(), values)
        close(gradient, defined(transposed, weights, 6, 7))


def test_what_is_to_be_differentiated_elsewhere_is_left_to_torch():
    window, x, size = Window.gaussian(5), photograph(1, 20).float(), (20, 20)
    multiplier = window.mean(x).abs().requires_grad_()
    quadratic = WindowQuadratic(window, size, multiplier, 2 * multiplier)
    for how in (quadratic.product, lambda values: quadratic.curved(values)[0]):
        (gradient,) = torch.autograd.grad((how(x) * x).sum(), multiplier, retain_graph=True)
        assert bool((gradient > 0).any())
    assert not kernels.fused_launcher(x, window, x.double())
    tangent = random_like(x, 1).float()
    with forward_ad.dual_level():
        derivative = forward_ad.unpack_dual(window.mean(forward_ad.make_dual(x, tangent))).tangent
    close(derivative, defined(window.mean, tangent))


@pytest.mark.slow("whole solves, by the kernels and by torch")
@pytest.mark.parametrize("level", LEVELS)
def test_solutions_and_bounds_do_not_depend_on_the_path(level):
    program, _ = program_of(photograph(3, 52).float(), LEVELS[level], 1).normalized()
    solution, expected = Dual().solve(program, 1e-3), defined(Dual().solve, program, 1e-3)
    assert solution.gap.tolist() == pytest.approx(expected.gap.tolist(), abs=1e-3)
    torch.testing.assert_close(solution.objective, expected.objective, rtol=2e-3, atol=0)
    bound, its = (how(dual_bound, program, solution.multipliers, solution.delta) for how in (_called, defined))
    torch.testing.assert_close(bound, its, rtol=1e-12, atol=0)


def test_other_windows_keep_torch_s_product():
    window, x = Window.uniform(8), photograph(1, 40).float()
    assert kernels.launcher_for(x, window) and not kernels.fused_launcher(x, window)
    multiplier = window.mean(x).abs()
    quadratic = WindowQuadratic(window, (40, 40), multiplier, 2 * multiplier)
    product, curvature = quadratic.curved(x)
    close(product, defined(quadratic.product, x))
    torch.testing.assert_close(curvature, per_image(x * product))


def test_without_numba_torch_takes_over(monkeypatch):
    window, x = Window.gaussian(), photograph(1, 40).float()
    monkeypatch.setattr(kernels, "_installed", lambda library: False)
    assert not kernels.launcher_for(x, window) and not kernels.fused_launcher(x, window)
    assert torch.equal(window.mean(x), defined(window.mean, x))


def test_a_numba_that_cannot_be_imported_is_told_of(monkeypatch):
    def refuse(library: str) -> None:
        raise ImportError("Numba needs NumPy 2.3 or less")

    monkeypatch.setattr(kernels, "import_module", refuse)
    kernels._installed.cache_clear()
    with pytest.warns(UserWarning, match=r"torch does its work: Numba needs NumPy"):
        assert kernels.described(torch.device("cpu")) == "torch"
    assert not kernels.launcher_for(photograph(1, 40).float(), Window.gaussian())
    kernels._installed.cache_clear()


def test_kernels_are_compiled_where_they_cannot_be_kept():
    namespace: dict = {}
    exec("def double(value):\n    return value + value", namespace)  # of no file
    assert jit.compiled(namespace["double"])(2.0) == 4


@pytest.mark.slow("compiles the kernels anew, in a Python of its own")
@pytest.mark.multiprocess
def test_vectors_of_any_machine_give_the_same(tmp_path):
    """As a machine without AVX-512, whose vectors are shorter, compiles them."""
    values = torch.cat([photograph(k, 61) for k in range(2)]).float()[:, :, :, :53]
    script = """
import sys, torch
from percep import Program, SSIMBall, Window
from percep.kernels.cpu import launch as cpu
from percep.kernels.cpu.simd import LANES
from percep.solvers import Dual
values, results = torch.load(sys.argv[1]), []
window, long = Window.gaussian(), Window.gaussian(31, 5)  # half of which reaches beyond a vector
results += [window.mean(values), window.adjoint(values, 61, 53)]
for each in (window, long):
    results += cpu.product(values, values, values, each)
solution = Dual().solve(Program(SSIMBall(values, floor=0.95, mean=0.99), values - 0.5), 1e-3)
torch.save((LANES, results, solution.objective), sys.argv[2])
"""
    torch.save(values, tmp_path / "values.pt")
    environment = os.environ | {
        "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path / "compiled"),
    }  # fmt: skip
    arguments = [sys.executable, "-c", script, str(tmp_path / "values.pt"), str(tmp_path / "results.pt")]
    subprocess.run(arguments, check=True, env=environment)
    lanes, found, objective = torch.load(tmp_path / "results.pt")
    assert lanes == 8
    window, long = Window.gaussian(), Window.gaussian(31, 5)
    close(found[0], defined(window.mean, values))
    close(found[1], defined(window.adjoint, values, 61, 53))
    for each, product, curvature in ((window, *found[2:4]), (long, *found[4:])):
        close(product, values * values + defined(each.adjoint, values * defined(each.mean, values), 61, 53))
        torch.testing.assert_close(curvature, per_image(values * product))
    program = Program(SSIMBall(values, floor=0.95, mean=0.99), values - 0.5)
    torch.testing.assert_close(objective, defined(Dual().solve, program, 1e-3).objective, rtol=2e-3, atol=0)


def test_narrow_images_are_not_left_to_vectors():
    narrow, window = photograph(1, 60).float()[..., : LANES - 1], Window.gaussian()
    assert kernels.launcher_for(narrow, window) and not kernels.fused_launcher(narrow, window)
    close(window.mean(narrow), defined(window.mean, narrow))


@njit
def _count(counts, start, stop):
    for piece in range(start, stop):
        counts[piece] += 1


@njit
def counted(counts, team):
    share(_count, (counts,), len(counts), team)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 4))
def test_every_piece_is_done_once(count, parts, threads):
    counts = np.zeros(count, np.int64)
    counted(counts, (parts, threads, *cpu._openmp(os.getpid())))
    assert (counts == 1).all()


@pytest.mark.slow("compiles a kernel that is made for it")
def test_threads_share_a_call_and_two_calls_at_once_have_their_own():
    assert "OpenMP" in torch.__config__.parallel_info()
    pause, thread = ctypes.CDLL(None).usleep, ctypes.CDLL(None).pthread_self
    pause.argtypes, thread.argtypes, thread.restype = [ctypes.c_uint], [], ctypes.c_ulong

    @njit(nogil=True)
    def sign(names, start, stop):
        pause(300_000)
        names[start:stop] = thread()

    @njit(nogil=True)
    def signed(names, team):
        share(sign, (names,), len(names), team)

    names, team = np.zeros((2, 2), np.uint64), (2, 2, *cpu._openmp(os.getpid()))
    signed(names[0], team)  # compiles
    callers = [threading.Thread(target=signed, args=(row, team)) for row in names]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(np.unique(names)) == 4


def test_kernels_are_shared_where_there_is_enough_for_every_thread(monkeypatch):
    monkeypatch.setattr(cpu, "_PIXELS_A_THREAD", 100)
    addresses = cpu._openmp(os.getpid())
    assert all(addresses)
    for threads, side, expected in ((3, 9, 1), (3, 15, 2), (3, 100, 3), (1, 100, 1)):
        torch.set_num_threads(threads)
        taken = []
        cpu._run(lambda planes, team: taken.append((planes, team)), torch.zeros(1, 1, side, side))  # noqa: B023
        assert taken == [(1, (expected, threads, *addresses))]


def test_kernels_called_at_once_do_not_disturb_each_other():
    x = torch.cat([photograph(k, 90) for k in range(2)]).float()
    state = iterate(program_of(x, {"floor": 0.9, "mean": 0.97}, 1), 2)
    rates = 0.5 + 0.3 * state.acceleration, 0.8 * state.acceleration
    steps, raised = state._fused_step(cpu, *rates)
    expected = [*steps.present(), *raised.present()]
    wrong = []

    def repeat() -> None:
        torch.set_num_threads(2)
        for _ in range(100):
            steps, raised = state._fused_step(cpu, *rates)
            found = [*steps.present(), *raised.present()]
            wrong.extend(k for k in range(len(found)) if not torch.equal(found[k], expected[k]))

    callers = [threading.Thread(target=repeat) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.slow("a fresh Python imports torch, and glibc overwrites all that is freed")
@pytest.mark.multiprocess
def test_what_kernels_hold_is_not_freed_too_early():
    """What glibc frees is overwritten at once."""
    script = """
import torch
from percep import Window
from percep.kernels.cpu import launch as cpu
from percep.kernels.arguments import Floor, UpdateInputs
torch.manual_seed(0)
d, x, l = torch.randn(2, 1, 256, 256), torch.randn(2, 1, 256, 256), torch.rand(2, 1, 256, 256)
k, step_sizes = torch.ones(2, 1, 1, 1), (torch.full((2,), 0.8), torch.full((2,), 0.8))
floor = Floor((k, k), (l + 1, l + 1), (l, l), (l, l), 0.3)
updated = cpu.update_multipliers(UpdateInputs(d, x, (x, l), floor, None, step_sizes), Window.gaussian())
for multipliers in updated.multipliers:
    lowest, highest = multipliers.flatten(1).amin(1), multipliers.flatten(1).amax(1)
    assert bool((lowest >= 0.3 * highest * (1 - 1e-6)).all()), (lowest, highest)
"""
    environment = os.environ | {"MALLOC_PERTURB_": "126", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@njit
def _fail(least, start, stop):
    if start <= least < stop:
        raise ValueError


@njit
def failing(least, team):
    share(_fail, (least,), 10, team)


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_a_part_that_fails_is_not_passed_over(parts):
    team = parts, 3, *cpu._openmp(os.getpid())
    failing(10, team)
    for piece in (0, 4, 9):
        with pytest.raises(MemoryError):
            failing(piece, team)


def test_without_openmp_one_thread_does_the_same(monkeypatch):
    window, x = Window.gaussian(), photograph(1, 60).float()
    expected = window.mean(x)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    cpu._openmp.cache_clear()
    assert cpu._openmp(os.getpid()) == (0, 0, 0)
    assert torch.equal(window.mean(x), expected)
    monkeypatch.undo()
    cpu._openmp.cache_clear()
    assert all(cpu._openmp(os.getpid()))


def test_tensors_without_memory_are_refused():
    with pytest.raises(InputError, match="PERCEP_KERNELS=torch"):
        Window.gaussian().mean(torch._efficientzerotensor((1, 64, 64)))
    x = photograph(1, 60).float()
    close(Window.gaussian().mean(torch._neg_view(x)), -Window.gaussian().mean(x))


@pytest.mark.slow("compiles the kernels anew, in a Python of its own")
@pytest.mark.multiprocess
def test_compiled_code_is_that_of_all_files(tmp_path):
    package = Path(kernels.__file__).parents[1]
    shutil.copytree(package, tmp_path / "percep", ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "import torch; from percep import Window; print(float(Window.gaussian(3).mean(torch.ones(60, 60))[30, 30]))"
    )

    def found() -> float:
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
        )
        return float(run.stdout)

    assert found() == pytest.approx(1)
    vectors = tmp_path / "percep" / "kernels" / "cpu" / "simd.py"
    code, right = vectors.read_text(), "builder.fmul(weights[0], after[0])"
    assert right in code
    vectors.write_text(code.replace(right, "builder.fmul(weights[1], after[0])"))
    assert found() < 0.99


@pytest.mark.multiprocess
def test_processes_that_compile_at_once_do_not_take_each_other_s_code(tmp_path, monkeypatch):
    (tmp_path / "twice.py").write_text("def twice(value):\n    return value + value\n")
    monkeypatch.syspath_prepend(tmp_path)
    twice = import_module("twice").twice
    monkeypatch.setitem(sys.modules, "twice", sys.modules.pop("twice"))  # to be forgotten

    def compile_another() -> None:
        """For another type, not seeing the index that is just written."""
        other = jit.compiled(twice)
        other._cache._cache_file._load_index = dict
        other(2)

    def save_index(overloads) -> None:
        index_of_numba(overloads)
        child = multiprocessing.get_context("fork").Process(target=compile_another, daemon=True)
        child.start()
        child.join(60)
        assert child.exitcode == 0

    first = jit.compiled(twice)
    index_of_numba = first._cache._cache_file._save_index
    first._cache._cache_file._save_index = save_index
    assert first(2.5) == 5
    kept = jit.compiled(twice)
    assert isinstance(kept(2), int)
    assert (kept(2), kept(2.5)) == (4, 5)
    assert sum(kept.stats.cache_hits.values()) == 1  # whose index was written last


def test_small_images_are_left_to_dense_products(monkeypatch):
    monkeypatch.undo()
    assert not kernels.launcher_for(torch.zeros(48, 48), Window.gaussian())
    assert kernels.launcher_for(torch.zeros(48, 49), Window.gaussian())


@pytest.mark.multiprocess
def test_a_forked_process_does_without_the_threads_it_has_not():
    window, x = Window.gaussian(), photograph(1, 60).float()
    expected = window.mean(x)

    def compare() -> None:
        sys.exit(0 if torch.equal(window.mean(x), expected) else 3)

    child = multiprocessing.get_context("fork").Process(target=compare, daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0


@njit
def _log_ratios(first, second, out):
    for j in range(0, len(out), LANES):
        store(out, j, update._log_ratio(load(first, j), load(second, j)))


@njit
def _exponentials(values, out):
    for j in range(0, len(out), LANES):
        store(out, j, update._exponential(load(values, j)))


def test_logarithms_of_ratios_are_those_of_numpy():
    smallest = float(np.finfo(np.float32).tiny)
    spread = np.geomspace(smallest, 3e38, 2**16).astype(np.float32)
    near = (1 + np.linspace(-1e-3, 1e-3, 2**16)).astype(np.float32)
    generator = np.random.default_rng(1)
    for first, second in ((spread, np.ones_like(spread)), (near, near[::-1].copy()), (spread, spread[::-1].copy())):
        for numerator, denominator in ((first, second), (second, first), (first, generator.permutation(second))):
            found = np.empty_like(numerator)
            _log_ratios(numerator, denominator, found)
            expected = np.log(numerator.astype(np.float64)) - np.log(denominator.astype(np.float64))
            assert (np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max() < 2e-7
    nothing, found = np.zeros(2 * LANES, np.float32), np.empty(2 * LANES, np.float32)
    _log_ratios(nothing, spread[-2 * LANES :].copy(), found)
    assert (found < -80).all() and np.isfinite(found).all()


def test_exponentials_are_those_of_numpy():
    values = np.linspace(-80, 80, 2**17).astype(np.float32)
    found = np.empty_like(values)
    _exponentials(values, found)
    assert np.abs(found / np.exp(values.astype(np.float64)) - 1).max() < 2e-7
