"""The layer under torch.func, torch.compile, tracing, inference mode and autocast, and for an empty batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from percep import SSIMBallLayer, UnavailableError
from percep.layer.module import Mode
from tests.support.layers import WINDOWS, images, inputs, noise

X = images()
G = 0.3 * noise(tuple(X.shape), 1)
NAMES = ("reference", "linear", "anchor", "proximal", "floor", "mean")


def layer(**settings: object) -> SSIMBallLayer:
    return SSIMBallLayer(WINDOWS["strided"], **({"floor": 0.9, "proximal": 1.0, "tol": 1e-8} | settings))


def of_linear(linear: Tensor) -> Tensor:
    return layer()(X, linear)


def answer(*values: Tensor) -> Tensor:
    """Of every input, in the order of `NAMES`."""
    return SSIMBallLayer(WINDOWS["strided"], tol=1e-8)(**dict(zip(NAMES, values, strict=True)))


def loss(*values: Tensor) -> Tensor:
    return (answer(*values) * noise(tuple(values[0].shape), 7)).sum()


def leaves() -> list[Tensor]:
    values = inputs("both", 1.0)
    return [values[name] for name in NAMES]


def test_grad_and_vjp_are_those_of_autograd_in_every_input() -> None:
    values = leaves()
    expected = torch.autograd.grad(loss(*values), values)
    plain = [value.detach() for value in values]
    for found in (
        torch.func.grad(loss, argnums=tuple(range(6)))(*plain),
        torch.func.vjp(loss, *plain)[1](torch.ones((), dtype=torch.float64)),
    ):
        for name, mine, wanted in zip(NAMES, found, expected, strict=True):
            torch.testing.assert_close(mine, wanted, msg=name)


@pytest.mark.slow("a gradient for every pixel")
def test_jacrev_is_the_jacobian_row_by_row() -> None:
    jacobian = torch.func.jacrev(of_linear)(G)
    assert jacobian.shape == (*X.shape, *X.shape)
    linear = G.clone().requires_grad_()
    found = of_linear(linear)
    for place in ((0, 0, 2, 3), (1, 0, 7, 0)):
        (row,) = torch.autograd.grad(found[place], linear, retain_graph=True)
        torch.testing.assert_close(jacobian[place], row)


@pytest.mark.slow("each sample is solved to 1e-8 by itself too")
@pytest.mark.parametrize("mapped", [0, 1])
def test_vmap_is_the_loop_over_the_mapped_dimension(mapped: int) -> None:
    linears = torch.stack([G, -G, 2 * G], mapped)
    found = torch.vmap(of_linear, in_dims=mapped)(linears)
    torch.testing.assert_close(found, torch.stack([of_linear(linear) for linear in linears.unbind(mapped)]))


@pytest.mark.slow("each sample is solved to 1e-8 by itself too")
def test_vmap_over_levels_that_are_numbers() -> None:
    floors, rhos = torch.tensor([0.8, 0.9, 0.95]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    found = torch.vmap(lambda floor, rho: layer()(X, G, floor=floor, proximal=rho))(floors, rhos)
    each = [layer()(X, G, floor=floor, proximal=rho) for floor, rho in zip(floors, rhos, strict=True)]
    torch.testing.assert_close(found, torch.stack(each))


@pytest.mark.slow("each sample is solved and differentiated by itself too")
@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 1, 1), (2, 1, 1, 1)])
def test_gradients_of_each_mapped_sample_in_levels_of_any_shape(shape: tuple[int, ...]) -> None:
    """Where one level serves several images, its gradient is their sum, and each sample has its own."""
    floor, linears = torch.full(shape, 0.9, dtype=torch.float64), torch.stack([G, -G, 2 * G])

    def of_floor(floor: Tensor, linear: Tensor) -> Tensor:
        return (layer(floor=None)(X, linear, floor=floor) * G).sum()

    for places, floors in (((None, 0), floor), ((0, 0), torch.stack([floor, 0.9 * floor, 0.95 * floor]))):
        found = torch.vmap(torch.func.grad(of_floor), in_dims=places)(floors, linears)
        for i, linear in enumerate(linears):
            own = (floor if places[0] is None else floors[i]).clone().requires_grad_()
            (wanted,) = torch.autograd.grad(of_floor(own, linear), own)
            torch.testing.assert_close(found[i], wanted, rtol=1e-5, atol=0)


def test_functional_call_reaches_a_learned_level() -> None:
    module = layer(floor=nn.Parameter(torch.tensor(0.9).double()))
    other = {"floor": torch.tensor(0.8).double()}
    torch.testing.assert_close(torch.func.functional_call(module, other, (X, G)), layer(floor=0.8)(X, G))

    def objective(parameters: dict[str, Tensor]) -> Tensor:
        return (torch.func.functional_call(module, parameters, (X, G)) * G).sum()

    (wanted,) = torch.autograd.grad((module(X, G) * G).sum(), module.parameters())
    found = torch.func.grad(objective)({name: value.detach() for name, value in module.named_parameters()})
    torch.testing.assert_close(found["floor"], wanted)


@pytest.fixture
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the unrolled mode: fifty, of which derivatives are as true as of two thousand."""
    monkeypatch.setattr("percep.layer.unrolled._ITERATIONS", 50)


def batched_gradients(reference: Tensor, linear: Tensor) -> object:
    wanted = linear if linear.requires_grad else reference
    return torch.autograd.grad(layer()(reference, linear), wanted, torch.stack([G, -G]), is_grads_batched=True)


@pytest.mark.usefixtures("few_iterations")
def test_autograds_own_batches_reach_the_unrolled_mode() -> None:
    """Of which every step is autograd's: what the implicit mode refuses is no fault of the caller's graph."""
    linear = G.clone().requires_grad_()
    delta = layer(mode="unrolled")(X, linear)
    (found,) = torch.autograd.grad(delta, linear, torch.stack([G, -G]), is_grads_batched=True, retain_graph=True)
    (wanted,) = torch.autograd.grad(delta, linear, G)
    torch.testing.assert_close(found, torch.stack([wanted, -wanted]))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("transformed", "message"),
    [
        (lambda: torch.func.jvp(of_linear, (G,), (G,)), "take vjp or jacrev"),
        (lambda: torch.func.jacfwd(of_linear)(G), "take vjp or jacrev"),
        (lambda: torch.func.jacrev(torch.func.jacrev(of_linear))(G), "mode='unrolled'"),
        (lambda: torch.jit.trace(of_linear, (G,)), "torch.jit.trace"),
        (lambda: torch.jit.trace(layer(mode="unrolled"), (X, G)), "torch.jit.trace"),
        (lambda: torch.export.export(layer(), (X, G), strict=False), "torch.export"),
        (lambda: torch.func.linearize(of_linear, G), "take torch.func.vjp for linearize"),
        (lambda: make_fx(of_linear)(G), "make_fx"),
        (lambda: make_fx(lambda linear: layer(mode="unrolled")(X, linear), tracing_mode="fake")(G), "make_fx"),
        (lambda: torch.jit.script(layer()), "torch.jit.script"),
        (lambda: torch.jit.script(nn.Sequential(nn.Flatten(), layer())), "torch.jit.script"),
        (lambda: torch.autograd.functional.jacobian(of_linear, G, vectorize=True), "take torch.func.jacrev"),
        (lambda: batched_gradients(X.clone().requires_grad_(), G), "is_grads_batched"),
        (lambda: batched_gradients(X, G.clone().requires_grad_()), "is_grads_batched"),
    ],
)
def test_what_the_layer_cannot_do_is_one_clear_line(transformed: Callable[[], object], message: str) -> None:
    with pytest.raises(UnavailableError, match=message) as caught:
        transformed()
    assert "\n" not in str(caught.value)


@pytest.mark.slow("torch compiles")
@pytest.mark.filterwarnings("ignore")
def test_compile_leaves_its_graph_for_the_layer() -> None:
    module = layer()

    def step(linear: Tensor) -> Tensor:
        return (module(X, 2 * linear) * G).sum()

    values = [G.clone().requires_grad_() for _ in range(2)]
    answers = [step(values[0]), torch.compile(step, backend="eager")(values[1])]
    for found in answers:
        found.backward()
    assert torch.equal(*answers)
    assert values[0].grad is not None and values[1].grad is not None
    assert torch.equal(values[0].grad, values[1].grad)


@pytest.mark.usefixtures("few_iterations")
@pytest.mark.parametrize("mode", ["implicit", "unrolled"])
@pytest.mark.parametrize("levels", [{"floor": 0.9}, {"mean": 0.99}, {"floor": 0.9, "mean": 0.99}], ids=str)
def test_an_empty_batch_goes_forward_and_back(mode: Mode, levels: dict[str, float]) -> None:
    x, g, a = (torch.rand(0, 1, 8, 8, requires_grad=True) for _ in range(3))
    parameters = {name: nn.Parameter(torch.tensor(value)) for name, value in levels.items()}
    module = SSIMBallLayer(WINDOWS["strided"], proximal=nn.Parameter(torch.tensor(1.0)), mode=mode, **parameters)
    delta = module(x, g, a)
    assert delta.shape == (0, 1, 8, 8)
    delta.sum().backward()
    for value in (x, g, a):
        assert value.grad is not None and value.grad.shape == x.shape
    for parameter in module.parameters():
        assert parameter.grad is not None and float(parameter.grad) == 0
    assert layer(mode=mode).solve(x.detach(), g.detach()).status == ()


@pytest.mark.slow("whole solves to 1e-8")
def test_inference_mode_and_tensors_made_under_it() -> None:
    with torch.inference_mode():
        inside = layer()(X, G)
        reference, linear = X.clone(), G.clone()
    assert torch.equal(inside, layer()(X, G))
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad((layer()(X, weight * G) * G).sum(), weight)
    assert torch.equal(torch.autograd.grad((layer()(reference, weight * G) * G).sum(), weight)[0], expected[0])
    anchored = layer()(reference, linear, weight * G)
    assert bool(torch.autograd.grad(anchored.sum(), weight)[0].isfinite())


@pytest.mark.parametrize("inside", [(True, False), (False, True), (True, True)], ids=str)
def test_autocast_changes_no_bit(inside: tuple[bool, bool]) -> None:
    results = []
    for forward, backward in ((False, False), inside):
        x, g = X.float().requires_grad_(), G.float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=forward):
            delta = layer(tol=1e-4)(x, g)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=backward):
            results.append((delta, *torch.autograd.grad((delta * G.float()).sum(), (x, g))))
    for mine, wanted in zip(*results, strict=True):
        assert torch.equal(mine, wanted)
