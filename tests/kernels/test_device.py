"""What needs a CUDA device: `make test-gpu`. The torch code on the same device is the definition.

Nothing here needs a file, foolbox or kornia: it is to run on a machine that has little more than torch and Triton.
"""

import pytest
import torch

from benchmarks.gpu.agreement import Case, compared
from benchmarks.gpu.inputs import images, linear_terms
from benchmarks.gpu.scale import DTYPES, SIZES, WINDOWS
from percep import Program, SSIMBall, Window, kernels, solve
from percep.solvers import Dual, dual
from percep.solvers.lagrangian import feasible_multipliers

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", SIZES)
def test_kernels_agree_with_torch(window, size, dtype):
    """Means, adjoints, products, updates; the checks that `python -m benchmarks.gpu` reports."""
    rows = list(compared(Case(window, size, dtype, 3, torch.device("cuda"))))
    assert {row["kernel"] for row in rows} >= {"mean", "adjoint", "product", "curvature", "update, both"}
    assert [row for row in rows if not row["passed"]] == []


def test_kernels_are_deterministic():
    values, window = torch.randn(4, 3, 224, 224, device="cuda"), Window.gaussian()
    first, second = (kernels.launcher_for(values, window).product(values, values, values, window) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_a_graph_replays_the_iteration_it_recorded():
    x = images(2, (64, 64), torch.device("cuda"))
    program = Program(SSIMBall(x, floor=0.95), linear_terms(x), torch.zeros(2, device="cuda"))
    eager = dual._State(program, feasible_multipliers(program), torch.zeros_like(x))
    state, graph = eager.replaced(eager.tensors()), dual._Graph(Dual())
    for _ in range(4):
        dual._iterated(Dual(), dual._RECORDED_STEPS, eager, 0.5)
        state = graph(state, 0.5)
        for mine, other in zip(state.tensors(), eager.tensors(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("levels", [{"floor": 0.95}, {"mean": 0.99}, {"floor": 0.9, "mean": 0.99}])
def test_a_device_and_a_cpu_certify_the_same_optimum(levels):
    x = images(2, (64, 64), torch.device("cpu"))
    linear = linear_terms(x)
    on_cpu = solve(Program(SSIMBall(x, **levels), linear), tol=1e-2)
    on_device = solve(Program(SSIMBall(x.cuda(), **levels), linear.cuda()), tol=1e-2)
    assert on_device.status == on_cpu.status == ("solved", "solved")
    assert bool((on_device.bound.cpu() >= on_cpu.objective).all())
    assert bool((on_cpu.bound >= on_device.objective.cpu()).all())
