"""What results say of themselves in one line, and as a table."""

import pytest
import torch

from percep import AdjointReport, Program, Solution, SSIMBall, SSIMBallLayer, Window, certify, solve
from percep.summaries import counted, range_of

WINDOW = Window.uniform(4, stride=4, padding="valid")


def program(batch: int = 3) -> Program:
    seeds = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 1, 8, 8, generator=seeds)
    pull = torch.randn(x.shape, generator=seeds)
    if batch > 1:
        pull[1, 0, 0, 0] = torch.nan
    return Program(SSIMBall(x, floor=0.9, window=WINDOW), pull)


def test_a_solution_says_how_many_images_are_solved_and_lists_them() -> None:
    solution = solve(program(), tol=1e-2)
    assert repr(solution).startswith("Solution((3, 1, 8, 8) float32: 2 solved, 1 not_finite; gap ")
    table = solution.to_pandas()
    assert list(table.columns) == ["status", "objective", "bound", "gap", "iterations"]
    assert table["status"].tolist() == ["solved", "not_finite", "solved"]
    assert table["gap"].tolist() == pytest.approx(solution.gap.tolist(), nan_ok=True)
    assert table["iterations"].tolist() == solution.iterations.tolist()


def test_a_certificate_counts_the_images_within_and_lists_them() -> None:
    x = program().ball.reference
    y = x.clone()
    y[1], y[2, 0, 0, 0] = 1 - x[1], torch.nan
    certificate = certify(x, y, mean=0.9, window=WINDOW)
    assert repr(certificate).startswith("Certificate(1 of 3 images within; least SSIM ")
    table = certificate.to_pandas()
    assert table["within"].tolist() == [True, False, False]
    assert table["min_ssim"].tolist() == pytest.approx(certificate.min_ssim.tolist(), nan_ok=True)


@pytest.mark.parametrize("batch", [0, 1, 200])
def test_no_repr_fills_a_screen(batch: int) -> None:
    task = program(batch)
    reports: list[AdjointReport] = []
    layer = SSIMBallLayer(WINDOW, floor=0.9, proximal=1.0, on_backward=reports.append)
    solution: Solution = solve(task, tol=1e-2)
    layer(torch.full((1, 1, 8, 8), 0.5), torch.ones(1, 1, 8, 8).requires_grad_()).sum().backward()
    x = task.ball.reference
    for value in (task, task.ball, solution, solution.multipliers, certify(x, x, window=WINDOW), WINDOW, reports[0]):
        assert len(repr(value)) < 250
        assert "\n" not in repr(value)
        assert "tensor" not in repr(value)
        assert repr(value).startswith(type(value).__name__)


def test_numbers_and_counts() -> None:
    assert range_of(torch.tensor([0.5, torch.nan, 0.25, 1.0])) == "0.25 to 1, median 0.5"
    assert range_of(torch.tensor([2.0, 2.0])) == "2"
    assert range_of(torch.tensor([torch.nan])) == range_of(torch.zeros(0)) == "undefined"
    assert counted(["a", "b", "a"]) == "2 a, 1 b"
    assert counted([]) == "none"
