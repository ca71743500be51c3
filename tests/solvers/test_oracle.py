"""The oracle states the program that the window defines; its backends agree, and say what they cannot do."""

import cvxpy
import pytest
import torch

from percep import InputError, Program, SSIMBall, Status, Window, solve
from percep.solvers import Oracle
from percep.solvers.oracle import Lifted, window_matrices
from tests.support.programs import check, oracle, task
from tests.support.references import KINDS, photograph, random_like

pytestmark = pytest.mark.usefixtures("one_thread")

ACCURATE = {
    "CLARABEL": (),
    "SCS": (("eps_abs", 1e-7), ("eps_rel", 1e-7)),
    "DIFFCP": (("eps_abs", 1e-7), ("eps_rel", 1e-7)),
    "MOREAU": (),
}


@pytest.mark.parametrize(
    "window",
    [Window.gaussian(), Window.gaussian(4, stride=3), Window.uniform(8, stride=4, padding="valid")],
)
def test_matrices_are_the_window(window):
    x = photograph(3, 19, channels=1)[..., :14]
    average, patches = window_matrices(SSIMBall(x, floor=0.9, window=window))
    mean = window.mean(x)
    torch.testing.assert_close(torch.tensor(average @ x.flatten().numpy()), mean.flatten())
    squares = torch.tensor(patches @ x.flatten().numpy()).reshape(mean.numel(), window.size**2) ** 2
    weights = torch.outer(torch.tensor(window.taps), torch.tensor(window.taps)).flatten().double()
    torch.testing.assert_close(squares @ weights, window.mean(x * x).flatten())


@pytest.mark.slow("conic solvers, which take seconds for a program")
@pytest.mark.parametrize(("level", "rho"), [("floor", 0.0), ("mean", 1.0), ("both", 0.0), ("map", 1.0)])
@pytest.mark.parametrize("backend", ACCURATE)
def test_backends_agree_without_a_warning(backend, level, rho, recwarn):
    program, exact = task("strided", level, rho), oracle("strided", level, rho)
    answer = solve(program, Oracle(backend, ACCURATE[backend]), tol=1e-3)
    check(program, answer)
    assert bool((answer.gap < 2e-3).all()) and bool((exact.gap < 1e-4).all())
    torch.testing.assert_close(answer.objective, exact.objective, rtol=2e-3, atol=0)
    assert not recwarn.list


@pytest.mark.parametrize("limit", [("CLARABEL", "max_iter"), ("SCS", "max_iters")])
def test_a_backend_that_stops_early_is_certified_as_it_is(limit, recwarn):
    backend, option = limit
    program = task("tiles", "floor", 0.0)
    answer = solve(program, Oracle(backend, ((option, 2),)), tol=1e-6)
    check(program, answer)
    assert answer.status == (Status.ITERATION_LIMIT,) * len(KINDS)
    assert not recwarn.list


def test_an_image_without_an_answer_leaves_the_others_theirs(monkeypatch):
    program = task("tiles", "floor", 0.0)
    run, runs = Lifted.run, iter(range(len(KINDS)))

    def failing(self, options):
        if next(runs) == 1:
            raise InputError("no answer")
        run(self, options)

    monkeypatch.setattr(Lifted, "run", failing)
    answer = solve(program, "oracle", tol=1e-4)
    check(program, answer)
    assert [status == Status.SOLVED for status in answer.status] == [True, False, True, True, True]
    assert not answer.delta[1].any() and bool(torch.isfinite(answer.bound).all())


def test_one_statement_serves_several_runs():
    program = task("strided", "both", 0.0).select(torch.tensor([0]))
    lifted = Lifted(program, "SCS")
    errors = []
    for accuracy in (1e-2, 1e-8):
        lifted.run({"eps_abs": accuracy, "eps_rel": accuracy})
        delta, _ = lifted.answer()
        errors.append(abs(float(program.objective(delta)) - float(oracle("strided", "both", 0.0).objective[0])))
    assert errors[1] < 1e-5 < errors[0]


def test_single_precision_is_taken_and_given():
    x = photograph(3, 16, channels=1, dtype=torch.float32)
    program = Program(SSIMBall(x, floor=0.9, window=Window.uniform(4, stride=4)), random_like(x, 1))
    answer = solve(program, "oracle", tol=1e-3)
    check(program, answer)
    assert answer.status == (Status.SOLVED,)


def test_a_backend_that_is_not_there_and_an_image_too_large_are_refused(monkeypatch):
    program = task("tiles", "floor", 0.0)
    with pytest.raises(InputError, match="no backend 'NONE' here; choose one of CLARABEL"):
        solve(program, Oracle("NONE"))
    monkeypatch.setattr(cvxpy, "installed_solvers", lambda: ["CLARABEL"])
    with pytest.raises(InputError, match=r"no backend 'MOREAU' here; choose one of CLARABEL$"):
        solve(program, Oracle("MOREAU"))
    large = torch.rand(1, 3, 256, 256)
    with pytest.raises(InputError, match="holds at most"):
        solve(Program(SSIMBall(large, floor=0.9), large), "oracle")
