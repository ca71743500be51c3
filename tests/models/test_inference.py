"""A copy for inference gives the same logits and gradients, with the normalisations gone."""

import pytest
import timm
import torch
from torch import Tensor, nn

from percep.models import Classifier, Preprocessing
from percep.models.inference import for_inference

SIDE = 32


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, mean=[0.4] * 3, std=[0.2] * 3, preprocessing=Preprocessing(SIDE, SIDE)).eval()


def trained_like(network: nn.Module) -> nn.Module:
    """Normalisations with statistics and weights that change something."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                if values is not None:
                    values.data = 0.5 + torch.rand(values.shape, generator=generator)
    return network


def normalisations(model: Classifier) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def gradient(model: Classifier, images: Tensor) -> Tensor:
    inputs = images.clone().requires_grad_()
    return torch.autograd.grad(model(inputs).square().sum(), inputs)[0]


@pytest.mark.parametrize("name", ["mobilenetv2_050", "resnet18"])
def test_the_copy_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = classifier(trained_like(timm.create_model(name, num_classes=5)))
    before, weights = normalisations(model), [values.clone() for values in model.parameters()]
    found = for_inference(model)
    assert before > 0 and normalisations(found) == 0 and normalisations(model) == before
    images = torch.rand(2, 3, SIDE, SIDE)
    expected = model(images).detach()
    torch.testing.assert_close(found(images).detach(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    expected = gradient(model, images)
    torch.testing.assert_close(gradient(found, images), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert not any(module.training for module in found.modules())
    assert all(torch.equal(one, other) for one, other in zip(weights, model.parameters(), strict=True))
    assert [path for path, _ in found.named_modules()][:4] == [path for path, _ in model.named_modules()][:4]


class _Twice(nn.Module):
    """A convolution whose output two normalisations read, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        values = self.convolution(images)
        return (self.first(values) + self.second(self.second(values))).mean((2, 3))


def test_a_network_that_folding_would_change_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model = classifier(trained_like(_Twice()))
    assert for_inference(model) is model


def test_a_network_that_cannot_be_copied_is_used_itself() -> None:
    class Alone(nn.Module):
        def __deepcopy__(self, memo: object) -> "Alone":
            raise RuntimeError("there is only one")

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    model = classifier(Alone())
    assert for_inference(model) is model
