"""What needs a CUDA device: `make test-gpu`. The torch code on the same device is the definition."""

import pytest
import torch

from percep import Program, SSIMBall, Window, kernels, solve
from percep.ball.batch import per_image
from percep.solvers import Dual, dual
from percep.solvers.lagrangian import feasible_multipliers
from tests.support.references import photograph, random_like

pytestmark = pytest.mark.gpu
WINDOWS = [
    Window.gaussian(),
    Window.gaussian(31, 5.0),
    Window.gaussian(4, stride=3),
    Window.uniform(8, stride=4, padding="valid"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", [(33, 40), (224, 224), (301, 517)])
def test_kernels_agree_with_torch(monkeypatch, window, size, dtype):
    values = torch.randn(3, 3, *size, dtype=dtype, device="cuda")
    inner = torch.randn(3, 3, *window.grid(*size), dtype=dtype, device="cuda")
    mean, spread = window.mean(values), window.adjoint(inner, *size)
    active = torch.tensor([1, 0, 1], device="cuda")
    product, curvature = kernels.launcher_for(values, window).product(values, values, inner, window, active)
    monkeypatch.setenv(kernels.CHOICE, "torch")
    close = 200 * torch.finfo(dtype).eps
    torch.testing.assert_close(mean, window.mean(values), rtol=0, atol=close)
    torch.testing.assert_close(spread, window.adjoint(inner, *size), rtol=0, atol=close)
    expected = values * values + window.adjoint(inner * window.mean(values), *size)
    torch.testing.assert_close(product[[0, 2]], expected[[0, 2]], rtol=0, atol=10 * close)
    torch.testing.assert_close(curvature[[0, 2]], per_image(values * product)[[0, 2]], rtol=1e-4, atol=0.1)
    assert not product[1].any() and float(curvature[1]) == 0


def test_kernels_are_deterministic():
    values, window = torch.randn(4, 3, 224, 224, device="cuda"), Window.gaussian()
    first, second = (kernels.launcher_for(values, window).product(values, values, values, window) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_a_graph_replays_the_iteration_it_recorded():
    x = torch.cat([photograph(3, 64), photograph(4, 64)]).float().cuda()
    program = Program(SSIMBall(x, floor=0.95), random_like(x.cpu(), 1).cuda(), torch.zeros(2, device="cuda"))
    eager = dual._State(program, feasible_multipliers(program), torch.zeros_like(x))
    state, graph = eager.replaced(eager.tensors()), dual._Graph(Dual())
    for _ in range(4):
        dual._iterated(Dual(), dual._RECORDED_STEPS, eager, 0.5)
        state = graph(state, 0.5)
        for mine, other in zip(state.tensors(), eager.tensors(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("levels", [{"floor": 0.95}, {"mean": 0.99}, {"floor": 0.9, "mean": 0.99}])
def test_a_device_and_a_cpu_certify_the_same_optimum(levels):
    x = torch.cat([photograph(3, 64), photograph(4, 64)]).float()
    linear = random_like(x, 1)
    on_cpu = solve(Program(SSIMBall(x, **levels), linear), tol=1e-2)
    on_device = solve(Program(SSIMBall(x.cuda(), **levels), linear.cuda()), tol=1e-2)
    assert on_device.status == on_cpu.status == ("solved", "solved")
    assert bool((on_device.bound.cpu() >= on_cpu.objective).all())
    assert bool((on_cpu.bound >= on_device.objective.cpu()).all())
