"""The layer's derivatives: against finite differences, the unrolled mode and cvxpylayers."""

import pytest
import torch

import percep
from benchmarks.lifted_layer import LiftedLayer
from percep import AdjointReport, SSIMBall, SSIMBallLayer, Window, solve
from percep.solvers import Oracle
from tests.support.layers import LEVELS, SIDE, WINDOWS, gradients, images, inputs, noise


def close(found: torch.Tensor, wanted: torch.Tensor, rel: float) -> bool:
    return float((found - wanted).norm()) <= rel * float(wanted.norm())


# The first image is well inside the pixel range, and the second meets it.
@pytest.mark.slow("finite differences of whole solves to 1e-8")
@pytest.mark.filterwarnings("error::percep.AdjointWarning")
@pytest.mark.parametrize("rho", [0.0, 1.0])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("window", WINDOWS)
def test_gradcheck_in_every_input(window, level, rho):
    layer = SSIMBallLayer(WINDOWS[window], tol=1e-8)
    values = inputs(level, rho, dark=True)
    if rho == 0:
        values["proximal"].requires_grad_(False)
    active = layer.solve(**values).multipliers
    assert active.mean is None or bool((active.mean > 1e-6).any())
    assert active.contrast is None or bool(((active.luminance > 1e-6) | (active.contrast > 1e-6)).any())
    names = list(values)
    assert torch.autograd.gradcheck(
        lambda *given: layer(**dict(zip(names, given, strict=True))),
        tuple(values.values()),
        eps=1e-5,
        atol=1e-4,
        rtol=1e-3,
        fast_mode=True,
    )


def test_the_pixel_range_is_active_in_dark_images_only():
    ends = []
    for dark in (False, True):
        values = inputs("floor", 1.0, dark)
        image = values["reference"] + SSIMBallLayer(WINDOWS["stride 1"], tol=1e-8)(**values)
        ends.append(int(((image < 1e-6) | (image > 1 - 1e-6)).sum()))
    assert ends[0] == 0 and ends[1] > 5


@pytest.mark.slow("finite differences of whole solves to 1e-8")
def test_a_level_per_window():
    layer = SSIMBallLayer(WINDOWS["stride 1"], tol=1e-8, proximal=1.0)
    floor = 0.85 + 0.1 * torch.rand(2, 1, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = inputs("floor", 1.0)
    assert torch.autograd.gradcheck(
        lambda floor, x: layer(x, values["linear"].detach(), floor=floor),
        (floor.requires_grad_(), values["reference"]),
        eps=1e-5,
        atol=1e-4,
        fast_mode=True,
    )


# Where plain iterations converge, and in how many of 2000: else constraints that are nearly active make them crawl.
@pytest.mark.slow("hundreds of iterations are differentiated")
@pytest.mark.parametrize(
    ("level", "window", "rho", "iterations"),
    [
        ("floor", "strided", 0.0, 1400),
        ("floor", "strided", 1.0, 700),
        ("mean", "stride 1", 0.0, 1500),
        ("mean", "strided", 1.0, 200),
        ("both", "strided", 1.0, 800),
    ],
)
def test_implicit_and_unrolled_modes_agree(level, window, rho, iterations, monkeypatch):
    monkeypatch.setattr("percep.layer.unrolled._ITERATIONS", iterations)
    values, cotangent = inputs(level, rho), noise((2, 1, SIDE, SIDE), 7)
    implicit, unrolled = (
        gradients(SSIMBallLayer(WINDOWS[window], tol=1e-8, mode=mode), values, cotangent)
        for mode in ("implicit", "unrolled")
    )
    for name, wanted in unrolled.items():
        assert close(implicit[name], wanted, 1e-5), name


@pytest.mark.slow("solves the lifted program of cvxpylayers")
@pytest.mark.parametrize("level", LEVELS)
def test_agrees_with_cvxpylayers_on_the_lifted_program(level):
    window = Window.gaussian(3, 1.0, padding="valid")
    x, rho = images()[:1], 1.0
    cotangent = noise(tuple(x.shape), 7)
    values = {
        name: value[:1].detach().requires_grad_()
        for name, value in inputs(level, rho).items()
        if name not in ("anchor", "proximal")
    }
    ours = gradients(SSIMBallLayer(window, tol=1e-8, proximal=rho), values, cotangent)
    ball = SSIMBall(x, window=window, **LEVELS[level])
    # diffcp's default, LSQR, is off by several percent here; its dense mode agrees with finite differences to 1e-7.
    lifted = LiftedLayer(ball, rho, "DIFFCP", {"eps": 1e-11, "max_iters": 10**6, "mode": "dense"})
    levels = {name: values[name] for name in LEVELS[level]}
    delta = lifted(ball.attached(values["reference"], **levels), values["linear"])
    theirs = torch.autograd.grad(delta, list(values.values()), cotangent)
    for (name, mine), other in zip(ours.items(), theirs, strict=True):
        assert close(mine, other, 1e-4), name


@pytest.mark.slow("the oracle is a conic solver, which takes seconds for a program")
def test_the_forward_answer_is_the_conic_solver_s_and_strictly_inside():
    for level in LEVELS:
        values = {name: value.detach() for name, value in inputs(level, 1.0, dark=True).items()}
        layer = SSIMBallLayer(WINDOWS["stride 1"], tol=1e-8)
        answer = layer.solve(**values)
        ball = SSIMBall(values["reference"], window=layer.window, **LEVELS[level])
        program = percep.Program(ball, values["linear"], 1.0, values["anchor"])
        assert close(answer.delta, solve(program, Oracle(), tol=1e-3).delta, 1e-3)
        assert bool((ball.scale(answer.delta) == 1).all()) and bool(ball.contains(ball.reference + answer.delta).all())


def test_at_a_kink_the_derivative_lies_between_the_one_sided_ones():
    x = images()[:1]
    ball = SSIMBall(x, mean=0.97, window=WINDOWS["stride 1"])
    direction = noise(tuple(x.shape), 3)
    edge = direction * ball.scale(direction).reshape(-1, 1, 1, 1)  # the free optimum of rho = 1, on the boundary
    layer = SSIMBallLayer(WINDOWS["stride 1"], mean=0.97, proximal=1.0, tol=1e-8)

    def slope(stretch: float) -> float:
        factor = torch.tensor(stretch, dtype=torch.float64, requires_grad=True)
        (result,) = torch.autograd.grad((layer(x, factor * edge) * edge).sum(), factor)
        return float(result / (edge * edge).sum())

    inside, outside = slope(1 - 1e-2), slope(1 + 1e-2)
    assert inside == pytest.approx(1.0, abs=1e-6) and outside < 0.5
    assert outside - 1e-6 <= slope(1.0) <= inside + 1e-6


@pytest.mark.slow("a whole solve, and hundreds of conjugate gradient steps")
def test_matrix_free_and_dense_adjoints_agree(monkeypatch):
    x = torch.rand(2, 1, 15, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    g = (0.3 * noise(tuple(x.shape), 1)).requires_grad_()
    reports: list[AdjointReport] = []
    layer = SSIMBallLayer(floor=0.9, proximal=1.0, tol=1e-4, smoothing=1e-3, solver="dual", on_backward=reports.append)
    answers = []
    for pixels in (100, 225):
        monkeypatch.setattr("percep.layer.adjoint.DENSE_PIXELS", pixels)
        answers.append(torch.autograd.grad(layer(x, g), g, noise(tuple(x.shape), 7))[0])
    assert reports[0].steps > 0 and reports[1].steps == 0
    assert bool((reports[0].residual < 6e-3).all()) and bool((reports[1].residual < 1e-9).all())
    assert close(answers[0], answers[1], 1e-2)


@pytest.mark.parametrize("name", ["linear", "reference"])
def test_the_backward_pass_takes_the_moments_of_the_reference_from_the_forward_pass(name, monkeypatch):
    values = {key: value[:1].detach() for key, value in inputs("both", 1.0).items()}
    x = values["reference"]
    values[name].requires_grad_()
    graphs: list[bool] = []
    mean = Window.mean

    def counted(window: Window, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.shape == x.shape and any(
            torch.equal(pixels.detach(), power) for power in (x.detach(), x.detach() ** 2)
        ):
            graphs.append(pixels.requires_grad)
        return mean(window, pixels)

    monkeypatch.setattr(Window, "mean", counted)
    delta = SSIMBallLayer(WINDOWS["strided"], tol=1e-6)(**values)
    assert graphs == [False, False]  # of x and of its square
    torch.autograd.grad(delta.sum(), values[name])
    # Once more where they are differentiated, and nowhere else.
    assert graphs[2:] == ([True, True] if name == "reference" else [])
