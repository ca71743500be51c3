"""Maps of a perturbation: against finite differences of the optimum, SSIM itself, and linear models."""

import pytest
import torch
from torch import Tensor

from percep import Program, SSIMBall, Window, solve
from percep.errors import InputError
from percep.explain import (
    ablation_maps,
    contribution_maps,
    energy_maps,
    multiplier_maps,
    ssim_maps,
)
from percep.solvers import InteriorPoint


@pytest.fixture
def reference() -> Tensor:
    return 0.2 + 0.6 * torch.rand(2, 1, 10, 12, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def gradient() -> Tensor:
    return torch.randn(2, 1, 10, 12, generator=torch.Generator().manual_seed(1)).double()


def optimum(ball: SSIMBall, gradient: Tensor):
    return solve(Program(ball, gradient), InteriorPoint(), tol=1e-9)


@pytest.mark.parametrize("window", [Window.gaussian(5), Window.uniform(4, stride=4, padding="valid")])
def test_multipliers_are_derivatives_of_the_optimum_by_the_floor_of_a_window(reference, gradient, window):
    reference, gradient = reference[:1, :, :8, :8], gradient[:1, :, :8, :8]
    rows, columns = window.grid(8, 8)
    floor = torch.full((1, 1, rows, columns), 0.95, dtype=torch.float64)
    ball = SSIMBall(reference, floor, window=window)
    found = optimum(ball, gradient)
    maps = multiplier_maps(ball, found.multipliers, found.delta)
    assert maps.shape == (1, 8, 8)
    step = 1e-4
    for row, column in ((0, 0), (1, 1), (rows - 1, 0)):
        optima = []
        for sign in (1, -1):
            moved = floor.clone()
            moved[..., row, column] += sign * step
            optima.append(optimum(SSIMBall(reference, moved, window=window), gradient).bound)
        slope = (optima[1] - optima[0]) / (2 * step)
        if (rows, columns) == (8, 8):
            torch.testing.assert_close(maps[:, row, column], slope, rtol=2e-3, atol=1e-5)
        else:  # 4 x 4 pixels per window, resampled: corners keep their window's value
            corner = (0 if row == 0 else 7, 0 if column == 0 else 7)
            torch.testing.assert_close(maps[:, *corner], slope, rtol=2e-3, atol=1e-5)


def test_under_a_mean_all_windows_have_the_multiplier_of_the_mean(reference, gradient):
    found = {level: optimum(SSIMBall(reference, mean=level), gradient) for level in (0.9499, 0.95, 0.9501)}
    maps = multiplier_maps(SSIMBall(reference, mean=0.95), found[0.95].multipliers, found[0.95].delta)
    slope = (found[0.9499].bound - found[0.9501].bound) / 2e-4
    torch.testing.assert_close(maps.flatten(1).sum(1), slope, rtol=1e-3, atol=0.0)
    assert torch.equal(maps, maps[:, :1, :1].expand_as(maps))


def test_energy_is_one_minus_ssim_of_a_small_perturbation():
    reference = 0.2 + 0.6 * torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(2)).double()
    delta = 1e-4 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(3)).double()
    lost = (1 - ssim_maps(reference, reference + delta)).sum(1)
    torch.testing.assert_close(energy_maps(reference, delta), lost, rtol=1e-2, atol=1e-9)
    torch.testing.assert_close(energy_maps(reference, 2 * delta), 4 * energy_maps(reference, delta))


def test_energy_of_a_flat_image_is_finite_and_none_is_zero():
    flat = torch.zeros(1, 1, 12, 12)
    assert torch.isfinite(energy_maps(flat, torch.full_like(flat, 1e-3))).all()
    assert not energy_maps(flat, torch.zeros_like(flat)).any()


def test_contributions_of_a_patch_add_up_to_its_share_of_the_objective(gradient):
    delta = torch.zeros(2, 1, 40, 40).double()
    delta[:, :, 16:24, 16:24] = gradient[:, :, :8, :8]
    slope = torch.full_like(delta, -2.0)
    maps = contribution_maps(slope, delta)
    torch.testing.assert_close(maps.sum((1, 2)), (slope * delta).flatten(1).sum(1))
    assert not maps[:, :8, :8].any()


def test_ablation_of_a_linear_model_is_what_each_square_gives():
    weights = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(4)).double()
    reference = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(5)).double()
    delta = 0.01 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(6)).double()
    labels = torch.tensor([0, 1, 0])

    def model(images: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", images, weights)

    found = ablation_maps(model, reference, delta, labels, side=4, stride=4, at_once=3)
    slopes = (weights[1 - labels] - weights[labels]).sum(1)
    per_square = (slopes * delta[:, 0]).unfold(1, 4, 4).unfold(2, 4, 4).sum((3, 4))
    expected = per_square.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # captum adds up in float32
    toward = ablation_maps(model, reference, delta, labels, 1 - labels, side=4, stride=4)
    torch.testing.assert_close(toward, expected, rtol=1e-5, atol=1e-7)


def test_ablation_refuses_squares_that_do_not_fit(reference):
    labels = torch.zeros(2, dtype=torch.int64)
    for arguments in ({"side": 11}, {"side": 4, "stride": 5}, {"at_once": 0}):
        with pytest.raises(InputError, match="ablation needs"):
            ablation_maps(lambda images: images.flatten(1), reference, reference, labels, **arguments)
    with pytest.raises(InputError, match="one shape"):
        ablation_maps(lambda images: images.flatten(1), reference, reference[:1], labels)
