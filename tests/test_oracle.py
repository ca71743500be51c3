"""The oracle's backends agree, and say what they cannot do."""

import pytest
import torch
from programs import task

from percep import InputError, Program, SSIMBall, solve
from percep.solvers import Oracle


@pytest.mark.parametrize("level", ["floor", "mean", "both"])
def test_first_order_and_interior_point_backends_agree(level):
    program = task("strided", level, 0.0)
    options = (("eps_abs", 1e-7), ("eps_rel", 1e-7))
    interior, first_order = solve(program, "oracle"), solve(program, Oracle("SCS", options))
    torch.testing.assert_close(first_order.objective, interior.objective, rtol=1e-3, atol=0)
    assert bool((interior.gap < 1e-5).all()) and bool((first_order.gap < 2e-3).all())


def test_no_warning_reaches_the_user(recwarn):
    solve(task("tiles", "floor", 0.0), Oracle("SCS", (("max_iters", 20),)))
    assert not recwarn.list


def test_an_unknown_backend_and_an_image_too_large_are_refused():
    x = torch.rand(1, 1, 256, 256)
    with pytest.raises(InputError, match="no backend 'NONE' here; choose one of CLARABEL"):
        solve(task("tiles", "floor", 0.0), Oracle("NONE"))
    with pytest.raises(InputError, match="holds at most"):
        solve(Program(SSIMBall(x.expand(-1, 3, -1, -1), floor=0.9), x.expand(-1, 3, -1, -1)), "oracle")
