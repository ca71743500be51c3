"""Attributions of linear models, which are known in closed form."""

import pytest
import torch
from torch import Tensor, nn

from percep import Window
from percep.errors import InputError
from percep.explain import integrated_gradients, occlusion, zero_maps


class Linear(nn.Module):
    """Logits `<w_k, x>` (or their tanh, steep enough to saturate), so that every attribution has a closed form."""

    def __init__(self, weights: Tensor, steep: float | None = None) -> None:
        super().__init__()
        self.weights, self.steep = nn.Parameter(weights, requires_grad=False), steep
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.einsum("bchw,kchw->bk", images, self.weights)
        return logits if self.steep is None else torch.tanh(self.steep * logits)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def weights() -> Tensor:
    return torch.randn(4, 3, 16, 20, generator=torch.Generator().manual_seed(1)).double()


TARGETS = torch.tensor([3, 1])


def deviations(images: Tensor) -> Tensor:
    return images - images.mean((2, 3), keepdim=True)


def test_integrated_gradients_of_a_linear_model_are_weights_times_deviations(images, weights):
    with torch.no_grad():
        found = integrated_gradients(Linear(weights), images, TARGETS, steps=3)
    signed = (weights[TARGETS] * deviations(images)).sum(1)
    torch.testing.assert_close(found.maps, Window.gaussian().mean(signed).clamp_min(0))
    assert found.maps.shape == (2, 16, 20) and not found.maps.requires_grad and found.zero.tolist() == [False, False]


def test_integrated_gradients_do_not_saturate_where_the_gradient_does(images, weights):
    steep = Linear(weights, steep=3.0)
    found = integrated_gradients(steep, images, TARGETS, steps=256)
    linear = integrated_gradients(Linear(weights), images, TARGETS)
    base = images.mean((2, 3), keepdim=True).expand_as(images)
    with torch.no_grad():
        changes = [
            (model(images) - model(base)).gather(1, TARGETS[:, None])[:, 0] for model in (steep, Linear(weights))
        ]
    # On a path along which only <w, x> moves, the map is the linear one times the ratio of the logits' changes.
    ratio = (changes[0] / changes[1])[:, None, None]
    torch.testing.assert_close(found.maps, ratio * linear.maps, rtol=1e-3, atol=1e-9)


def test_occlusion_of_a_linear_model_is_the_mean_loss_of_the_squares_over_a_pixel(images, weights):
    side, stride = 4, 2
    with torch.no_grad():
        found = occlusion(Linear(weights), images, TARGETS, side, stride, at_once=3)
    gain = (weights[TARGETS] * deviations(images)).sum(1)
    total, covers = torch.zeros_like(gain), torch.zeros_like(gain)
    for top in range(0, 16 - side + 1, stride):
        for left in range(0, 20 - side + 1, stride):
            square = (slice(None), slice(top, top + side), slice(left, left + side))
            total[square] += gain[square].sum((1, 2), keepdim=True)
            covers[square] += 1
    assert found.maps.dtype == torch.float64
    torch.testing.assert_close(found.maps, (total / covers).clamp_min(0), rtol=1e-5, atol=1e-6)


def test_occlusion_covers_sides_that_its_stride_does_not_divide(images, weights):
    cropped = Linear(weights[:, :, :13, :15].clone())
    found = occlusion(cropped, images[:, :, :13, :15], TARGETS, side=4, stride=3)
    assert found.maps.shape == (2, 13, 15) and torch.isfinite(found.maps).all()


def test_each_image_is_explained_on_its_own(images, weights):
    model = Linear(weights, steep=0.01)
    for explain in (integrated_gradients, occlusion):
        together = explain(model, images, TARGETS).maps
        alone = torch.cat([explain(model, images[i : i + 1], TARGETS[i : i + 1]).maps for i in range(2)])
        torch.testing.assert_close(together, alone)


def test_what_speaks_for_nothing_is_flagged(images, weights):
    flat = images.clone()
    flat[1] = 0.25
    for explain in (integrated_gradients, occlusion):
        found = explain(Linear(weights), flat, TARGETS)
        assert found.zero.tolist() == [False, True] and not found.maps[1].any()
    maps = torch.zeros(3, 4, 4)
    maps[1, 2, 2] = 1e-30
    assert zero_maps(maps).tolist() == [True, False, True]


def test_what_cannot_be_explained_is_refused(images, weights):
    model = Linear(weights)
    for explain in (integrated_gradients, occlusion):
        for targets in ([0], [0, 4], [0, -1]):
            with pytest.raises(InputError, match=r"^targets must be (integers of shape \(2,\)|class .* \[0, 3\])"):
                explain(model, images, torch.tensor(targets))
    with pytest.raises(InputError, match="at least 1 step"):
        integrated_gradients(model, images, TARGETS, steps=0)
    for side, stride in ((17, 2), (4, 5), (0, 1)):
        with pytest.raises(InputError, match="occlusion needs"):
            occlusion(model, images, TARGETS, side, stride)
