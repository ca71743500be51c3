"""The layer as a torch module: modes of use, reports, warnings and errors."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import percep
from percep import AdjointReport, AdjointWarning, InputError, SSIMBallLayer, Status
from percep.solvers.interior_point import InteriorPoint
from tests.support.layers import WINDOWS, images, inputs, noise

X = images()
G = 0.3 * noise(tuple(X.shape), 1)


def layer(**settings: object) -> SSIMBallLayer:
    return SSIMBallLayer(WINDOWS["strided"], **({"floor": 0.9, "proximal": 1.0, "tol": 1e-6} | settings))


def gradient(module: nn.Module, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    g = g.detach().requires_grad_()
    (result,) = torch.autograd.grad((module(x, g) ** 2).sum(), g)
    return result


def test_a_batch_is_its_images():
    together = gradient(layer(), X, G)
    alone = torch.cat([gradient(layer(), X[i : i + 1], G[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone)


def test_scale_of_the_linear_term_and_of_the_cotangent():
    x, g = X.float(), (1e-9 * G.float()).requires_grad_()
    module = layer(proximal=0.0, tol=1e-4)
    (small,) = torch.autograd.grad(module(x, g), g, torch.full_like(x, 1e-12))
    g = (1e9 * g.detach()).requires_grad_()
    (large,) = torch.autograd.grad(module(x, g), g, torch.ones_like(x))
    torch.testing.assert_close(small * 1e3, large, rtol=1e-2, atol=1e-3 * float(large.abs().max()))


def test_float32_follows_float64():
    single, double = gradient(layer(), X.float(), G.float()), gradient(layer(), X, G)
    assert single.dtype == torch.float32
    assert float((single.double() - double).norm()) < 2e-2 * float(double.norm())


@pytest.mark.slow("whole solves, differentiated in turn")
def test_no_grad_and_mixed_requires_grad():
    with torch.no_grad():
        assert not layer()(X, G.requires_grad_()).requires_grad
    values = inputs("both", 1.0)
    module = SSIMBallLayer(WINDOWS["strided"], tol=1e-8)
    everything = torch.autograd.grad(module(**values).sum(), list(values.values()))
    for (name, value), wanted in zip(values.items(), everything, strict=True):
        others = {key: other if key == name else other.detach() for key, other in values.items()}
        (alone,) = torch.autograd.grad(module(**others).sum(), value)
        torch.testing.assert_close(alone, wanted, msg=name)


def test_input_that_is_not_contiguous():
    x, g = (values.transpose(2, 3).contiguous().transpose(2, 3) for values in (X, G))
    assert not x.is_contiguous()
    torch.testing.assert_close(gradient(layer(), x, g), gradient(layer(), X, G))


def test_a_freed_graph_and_a_second_derivative():
    g = G.detach().requires_grad_()
    loss = (layer()(X, g) ** 2).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    kept = (layer()(X, g) ** 2).sum()
    twice = [torch.autograd.grad(kept, g, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*twice)
    (first,) = torch.autograd.grad(kept, g, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_saved_tensor_hooks_and_checkpoints_see_what_the_backward_pass_needs():
    g = G.detach().requires_grad_()
    wanted = gradient(layer(), X, G)
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> int:
        saved.append(tensor.detach().clone())
        return len(saved) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, saved.__getitem__):
        delta = layer()(X, g)
    assert torch.equal(torch.autograd.grad((delta**2).sum(), g)[0], wanted)
    mean = WINDOWS["strided"].mean(X)
    assert any(tensor.shape == mean.shape and torch.equal(tensor, mean) for tensor in saved)
    delta = checkpoint(layer(), X, g, use_reentrant=False)
    assert torch.equal(torch.autograd.grad((delta**2).sum(), g)[0], wanted)


def test_in_a_sequential_with_a_learned_floor():
    class LinearTerm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, self.weight * (x - 0.5)

    level = nn.Parameter(torch.tensor(0.9, dtype=torch.float64))
    model = nn.Sequential(LinearTerm(), layer(floor=level, proximal=torch.tensor(1.0)))
    assert set(model.state_dict()) == {"0.weight", "1.floor", "1.proximal"}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = float((model(X) ** 2).sum().detach())
    for _ in range(3):
        optimizer.zero_grad()
        (model(X) ** 2).sum().backward()
        optimizer.step()
    assert float(level) > 0.9 and float((model(X) ** 2).sum().detach()) < before
    other = copy.deepcopy(model)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), model(X))


def test_the_solution_on_request():
    answer = layer().solve(X, G.detach().requires_grad_())
    assert answer.status == (Status.SOLVED,) * 2 and answer.delta.requires_grad and not answer.gap.requires_grad
    assert bool((answer.gap <= 1e-6).all())


def test_an_image_that_is_not_finite_harms_no_other():
    x = torch.cat([X, X[:1]])
    x[2, 0, 1, 1] = torch.nan
    g = torch.cat([G, G[:1]]).detach().requires_grad_()
    reports: list[AdjointReport] = []
    delta = layer(on_backward=reports.append)(x, g)
    with pytest.warns(AdjointWarning, match="image 2: forward not_finite"):
        (found,) = torch.autograd.grad((delta**2).sum(), g)
    torch.testing.assert_close(found[:2], gradient(layer(), X, G))
    assert bool((found[2] == 0).all()) and reports[0].accurate.tolist() == [True, True, False]


def test_a_cotangent_that_is_not_finite_is_not_hidden():
    g = G.detach().requires_grad_()
    cotangent = torch.ones_like(X)
    cotangent[0, 0, 0, 0] = torch.inf
    with pytest.warns(AdjointWarning, match="image 0"):
        (found,) = torch.autograd.grad(layer()(X, g), g, cotangent)
    assert bool(found[0].isnan().all()) and bool(found[1].isfinite().all())


def test_an_inaccurate_adjoint_is_not_silent(monkeypatch):
    x = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
    reports: list[AdjointReport] = []
    module = SSIMBallLayer(floor=0.9, on_backward=reports.append)
    with monkeypatch.context() as patch:
        patch.setattr("percep.layer.adjoint._MAX_STEPS", 3)
        patch.setattr("percep.layer.adjoint.MAX_PIXELS", 0)
        with pytest.warns(AdjointWarning, match="image 0: forward solved, adjoint residual"):
            module(x, g).sum().backward()
    module(x, g).sum().backward()
    assert [bool(report.accurate.all()) for report in reports] == [False, True]
    poor = SSIMBallLayer(floor=0.9, tol=1e-4, solver=percep.solvers.Dual(max_iterations=2))
    poor(x, g).backward(torch.zeros_like(x))  # exactly 0, whatever the answer
    with pytest.warns(AdjointWarning, match="forward iteration_limit"):
        poor(x, g).sum().backward()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SSIMBallLayer(tol=0.0), "tol must be positive"),
        (lambda: SSIMBallLayer(mode="explicit"), "mode must be"),
        (lambda: SSIMBallLayer()(X, G), "a floor, a mean or both"),
        (lambda: layer()(X), "a reference and a linear term"),
        (lambda: layer(mode="unrolled")(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)), "at most 256"),
        (lambda: layer(floor=torch.tensor([0.9, 1.5]))(X, G), "floor must lie in"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.slow("the real network")
def test_finite_differences_of_a_loss_through_efficientnet():
    photographs = list(percep.data.samples(percep.models.load("efficientnet_lite0").preprocessing).first(1))
    model = percep.models.load("efficientnet_lite0").double().eval().requires_grad_(False)
    x = photographs[0].image[None].double()[..., 100:112, 100:112].contiguous()
    # With tiles of 4 pixels and a smaller image, so that two forwards and a backward take seconds.
    module = SSIMBallLayer(WINDOWS["tiles"], floor=0.8, proximal=1.0, tol=1e-8, solver=InteriorPoint())
    label = torch.tensor([photographs[0].label])

    def loss(g: torch.Tensor) -> torch.Tensor:
        image = nn.functional.interpolate(x + module(x, g), size=(64, 64), mode="bilinear")
        return nn.functional.cross_entropy(model(image), label)

    g = (0.3 * noise(tuple(x.shape), 1)).requires_grad_()
    (found,) = torch.autograd.grad(loss(g), g)
    direction, step = noise(tuple(x.shape), 2), 1e-6
    with torch.no_grad():
        difference = (loss(g + step * direction) - loss(g - step * direction)) / (2 * step)
    assert float((found * direction).sum()) == pytest.approx(float(difference), rel=1e-3)  # ReLU6 has kinks
