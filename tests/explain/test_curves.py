"""Insertion and deletion on linear models, where a margin is a sum over blocks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from percep.errors import InputError
from percep.explain import block_means, deletion, insertion


@pytest.fixture
def reference() -> Tensor:
    return 0.25 + 0.5 * torch.rand(2, 3, 12, 18, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def delta() -> Tensor:
    return 0.1 * torch.randn(2, 3, 12, 18, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def weights() -> Tensor:
    return torch.randn(2, 3, 12, 18, generator=torch.Generator().manual_seed(2)).double()


LABELS = torch.tensor([0, 1])


def linear(weights: Tensor):
    return lambda images: torch.einsum("bchw,kchw->bk", images, weights)


def gains(weights: Tensor, delta: Tensor) -> Tensor:
    """What each pixel adds to the margin of two classes, `(B, H, W)`."""
    return torch.stack([(weights[1 - k] - weights[k]) * delta[i] for i, k in enumerate(LABELS.tolist())]).sum(1)


@pytest.mark.parametrize("side", [4, 5])
def test_a_linear_margin_grows_by_what_the_blocks_hold(reference, delta, weights, side):
    order = torch.rand(2, 12, 18, generator=torch.Generator().manual_seed(3)).double()
    means = block_means(order, side)
    count = means[0].numel()
    gain = gains(weights, delta)
    inserted = insertion(linear(weights), reference, delta, order, LABELS, side=side, steps=count)
    deleted = deletion(linear(weights), reference, delta, order, LABELS, side=side, steps=count)
    assert inserted.blocks.tolist() == pytest.approx(np.linspace(0, 1, count + 1).tolist())
    for image in range(2):
        start = float(linear(weights)(reference)[image] @ torch.tensor([-1.0, 1]).double() * (1 - 2 * LABELS[image]))
        expected, energy = [start], [0.0]
        for block in means[image].flatten().argsort(descending=True).tolist():
            row, column = divmod(block, means.shape[2])
            place = (slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
            expected.append(expected[-1] + float(gain[image][place].sum()))
            energy.append(energy[-1] + float(delta[image][:, place[0], place[1]].square().sum()))
        np.testing.assert_allclose(inserted.margins[image], expected, atol=1e-10)
        np.testing.assert_allclose(inserted.energy[image], np.array(energy) / energy[-1], atol=1e-10)
        # What is gone counts from the other end.
        np.testing.assert_allclose(deleted.margins[image], expected[-1] + expected[0] - np.array(expected), atol=1e-10)
    torch.testing.assert_close(inserted.area, deleted.area)


def test_the_area_is_that_of_the_polygon_and_largest_for_the_best_order(reference, delta, weights):
    delta = delta.abs() * gains(weights, torch.ones_like(delta)).sign()[:, None]  # every pixel helps or nearly so
    gain = gains(weights, delta)
    best = insertion(linear(weights), reference, delta, gain, LABELS, side=3, steps=8)
    worst = insertion(linear(weights), reference, delta, -gain, LABELS, side=3, steps=8)
    sums = block_means(gain, 3).flatten(1).sort(dim=1, descending=True).values.reshape(2, 8, 3).sum(2)
    progress = torch.cat([torch.zeros(2, 1), sums.cumsum(1) / sums.sum(1, keepdim=True)], 1)
    torch.testing.assert_close(best.progress, progress)
    torch.testing.assert_close(best.area, ((progress[:, 1:] + progress[:, :-1]) / 16).sum(1))
    assert (best.area > 0.5).all() and (worst.area < 0.5).all()
    torch.testing.assert_close(worst.area, 1 - best.area)


def test_area_by_energy_is_a_half_where_the_margin_follows_the_energy(reference, delta):
    delta[:, :, :4] *= 3

    def model(images: Tensor) -> Tensor:
        spent = (images - reference).square().flatten(1).sum(1)
        return torch.stack([torch.zeros_like(spent), 2 * spent - 1], 1)

    curve = insertion(
        model, reference, delta, delta.square().sum(1), torch.zeros(2, dtype=torch.int64), side=2, steps=9
    )
    torch.testing.assert_close(curve.area_by_energy, torch.full((2,), 0.5, dtype=torch.float64))
    assert (curve.area > 0.6).all()


def test_flips_are_where_the_sign_settles(reference):
    labels = torch.zeros(2, dtype=torch.int64)
    delta = torch.zeros_like(reference)
    delta[0, 0, 0, :] = torch.tensor([3.0, -4, 2, 2, 2, 2]).repeat_interleave(3)
    margins = iter([-1.0, 0.4, 0.5, -0.5, 0.2])  # without, with all of it, and between

    def model(images: Tensor) -> Tensor:
        value = next(margins)
        return torch.tensor([[0.0, value], [0.0, -1.0]])

    order = torch.arange(18.0).expand(2, 12, 18)
    curve = insertion(model, reference, delta, order, labels, side=6, steps=4)
    shares = curve.blocks.tolist()
    assert shares == pytest.approx([0, 2 / 6, 3 / 6, 4 / 6, 1], abs=0.2)
    assert float(curve.flips[0]) == shares[3] and torch.isnan(curve.flips[1])
    # The second image has no perturbation and no change: undefined, not dropped.
    assert torch.isnan(curve.area[1]) and torch.isnan(curve.energy[1]).all() and torch.isfinite(curve.area[0])


def test_targeted_curves_and_ends(reference, delta, weights):
    targets = 1 - LABELS
    order = torch.rand(2, 12, 18)
    model = linear(weights)
    untargeted = insertion(model, reference, delta, order, LABELS, side=6, steps=3)
    torch.testing.assert_close(
        insertion(model, reference, delta, order, LABELS, targets, side=6, steps=3).margins, untargeted.margins
    )
    removed = deletion(model, reference, delta, order, LABELS, side=6, steps=3)
    torch.testing.assert_close(removed.margins[:, 0], untargeted.margins[:, -1])
    torch.testing.assert_close(removed.margins[:, -1], untargeted.margins[:, 0])
    assert not untargeted.margins.requires_grad


def test_what_does_not_fit_is_refused(reference, delta, weights):
    model, order = linear(weights), torch.rand(2, 12, 18)
    for steps in (0, 7):
        with pytest.raises(InputError, match="1 to 6 steps"):
            insertion(model, reference, delta, order, LABELS, side=6, steps=steps)
    with pytest.raises(InputError, match="must be finite"):
        deletion(model, reference, delta, order * torch.nan, LABELS, side=6, steps=2)
    with pytest.raises(InputError, match="reference, delta and order"):
        insertion(model, reference, delta, order[:, :6], LABELS, side=6, steps=2)
