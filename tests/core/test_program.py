"""Programs and their multipliers: what is selected, converted and refused."""

import pytest
import torch

from percep import InputError, Multipliers, Program, SSIMBall
from percep.program import paired
from percep.solvers.constraints import Constraints
from percep.solvers.lagrangian import NormalEquations, window_weights
from tests.support.references import photograph, random_like


def program(images: int = 3) -> Program:
    x = torch.cat([photograph(i, 16) for i in range(3, 3 + images)]).float()
    rho = torch.arange(images, dtype=torch.float32)
    return Program(SSIMBall(x, floor=0.9, mean=0.99), random_like(x, 1), rho, random_like(x, 2))


def multipliers(batch: int = 2) -> Multipliers:
    per_window = torch.arange(batch * 3 * 4.0).reshape(batch, 3, 2, 2)
    return Multipliers.of(per_window, 2 * per_window, torch.ones(batch, 1, 1, 1))


def test_selected_and_converted_programs_are_those_of_their_values():
    whole, images = program(), torch.tensor([2, 0])
    for made, take in ((whole.select(images), lambda values: values[images]), (whole.double, torch.Tensor.double)):
        assert torch.equal(made.linear, take(whole.linear)) and torch.equal(made.anchor, take(whole.anchor))
        assert torch.equal(made.rho, take(whole.rho)) and torch.equal(made.ball.reference, take(whole.ball.reference))
        torch.testing.assert_close(made.linear_term, take(whole.linear) + take(whole.rho) * take(whole.anchor))


def test_channels_of_an_exact_program_add_up_to_its_objective(monkeypatch):
    whole = program()
    delta = 0.01 * random_like(whole.linear, 3)
    together = whole.objective(delta)
    monkeypatch.setattr("percep.ball._MAX_VALUES_AT_ONCE", 0)
    assert [channels for channels, _ in whole.exact] == [slice(i, i + 1) for i in range(3)]
    torch.testing.assert_close(whole.objective(delta), together, rtol=1e-12, atol=0)


def test_multipliers_of_a_floor_come_in_pairs():
    some = torch.ones(1, 3, 2, 2)
    for halves in ((some, None), (None, some)):
        with pytest.raises(InputError, match="luminance and of contrast"):
            Multipliers.of(*halves)
    assert Multipliers.of(None, None, some).floor is None
    both = Multipliers.of(some, 2 * some)
    assert both.floor == (some, both.contrast) and both.luminance is some and both.mean is None
    assert Multipliers.of(*both.tensors()) == both and len(both.present()) == 2


def test_multipliers_of_other_constraints_than_the_balls_are_refused():
    assert paired(None, None) is None and paired(1, 2) == (1, 2)
    task = program()
    zeros = Multipliers.zeros(task.ball)
    constraints = Constraints(task.ball, task.linear)
    for lacking in (Multipliers(zeros.floor), Multipliers(None, zeros.mean)):
        with pytest.raises(InputError, match="constraints of its ball"):
            NormalEquations(task, lacking)
    for read in (constraints.vjp, constraints.squared):
        with pytest.raises(InputError, match="constraints of its ball"):
            read(Multipliers(None, zeros.mean))
    with pytest.raises(InputError, match="constraints of its ball"):
        window_weights(task.ball, Multipliers(zeros.floor))


def test_multipliers_are_selected_joined_and_updated_together():
    found = multipliers()
    chosen = found.select(torch.tensor([1]))
    assert [tuple(part.shape) for part in chosen.present()] == [(1, 3, 2, 2), (1, 3, 2, 2), (1, 1, 1, 1)]
    assert torch.equal(found.channels(slice(1, 2)).contrast, found.contrast[:, 1:2])
    assert torch.equal(found.join(found, torch.sub).contrast, torch.zeros(2, 3, 2, 2))
    assert found.join(Multipliers(), torch.add).present() == []
    found.update(torch.tensor([0]), chosen)
    assert all(torch.equal(part[0], part[1]) for part in found.present())
