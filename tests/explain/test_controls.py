"""Controls keep what they should keep, and nothing else."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from percep.errors import InputError
from percep.explain import (
    another_images,
    cascade,
    derangement,
    phase_shuffled,
    random_gradient,
    randomised,
    sign_flipped,
    weight_layers,
    wrong_classes,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(7)).cumsum(-1) + 0.3


@pytest.mark.parametrize("shape", [(3, 3, 16, 20), (2, 3, 15, 17), (2, 1, 16, 15), (3, 14, 11)])
def test_phase_shuffling_keeps_the_spectrum_and_the_mean_and_is_real(shape):
    original = gradient(*shape)
    shuffled = phase_shuffled(original, generator())
    assert shuffled.shape == original.shape and shuffled.dtype == original.dtype and not shuffled.is_complex()
    spectra = [torch.fft.fft2(values).abs() for values in (original, shuffled)]
    torch.testing.assert_close(spectra[1], spectra[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(shuffled.mean((-2, -1)), original.mean((-2, -1)))
    assert np.abs(np.corrcoef(shuffled.flatten(), original.flatten())[0, 1]) < 0.9
    assert not torch.allclose(shuffled, phase_shuffled(original, generator(1)))
    assert torch.equal(shuffled, phase_shuffled(original, generator()))


def test_phase_shuffling_keeps_what_channels_have_to_do_with_each_other():
    original = gradient(2, 3, 16, 20)
    shuffled = phase_shuffled(original, generator())
    for image in range(2):
        covariances = [np.cov(values[image].flatten(1).numpy()) for values in (original, shuffled)]
        np.testing.assert_allclose(covariances[1], covariances[0], rtol=1e-9, atol=1e-9)
    # Images are turned each by its own noise.
    same = phase_shuffled(original[:1].expand(2, -1, -1, -1), generator())
    assert not torch.allclose(same[0], same[1])
    assert phase_shuffled(original.float(), generator()).dtype == torch.float32


def test_a_random_gradient_has_the_norm_and_no_direction():
    original = gradient(5, 3, 16, 20)
    noise = random_gradient(original, generator())
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), original.flatten(1).norm(dim=1))
    cosines = (noise * original).flatten(1).sum(1) / original.flatten(1).square().sum(1)
    assert float(cosines.abs().max()) < 4 / 960**0.5
    assert torch.equal(sign_flipped(original), -original)


def test_a_derangement_leaves_nothing_in_its_place_and_reaches_every_other():
    seen = torch.zeros(4, 4)
    source = generator()
    for _ in range(900):
        order = derangement(4, source)
        assert sorted(order.tolist()) == [0, 1, 2, 3]
        seen[torch.arange(4), order] += 1
    assert (seen.diagonal() == 0).all()
    assert float((seen - 300).abs()[~torch.eye(4, dtype=torch.bool)].max()) < 4 * 200**0.5
    maps = torch.arange(6.0).reshape(6, 1, 1)
    assert (another_images(maps, source) != maps).all()
    with pytest.raises(InputError, match="another image"):
        derangement(1, source)


def test_wrong_classes_are_any_but_the_label():
    labels = torch.arange(3).repeat(2000)
    classes = wrong_classes(labels, 3, generator())
    assert (classes != labels).all() and int(classes.min()) == 0 and int(classes.max()) == 2
    assert float((classes == (labels + 1) % 3).double().mean()) == pytest.approx(0.5, abs=0.03)
    with pytest.raises(InputError, match="wrong class"):
        wrong_classes(labels, 1, generator())


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.tensor([2.0, 3.0]), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stem(images).mean((2, 3))) * self.scale[0]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    model = Network().eval()
    nn.init.normal_(model.stem[1].weight)
    model.stem[1].running_mean.normal_()
    return model


def test_randomisation_changes_copies_only_and_only_the_layers_named(network):
    before = copy.deepcopy(network.state_dict())
    twin = randomised(network, ["head"], generator())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for name, value in twin.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("head")), name
        assert value.data_ptr() != network.state_dict()[name].data_ptr()
    for name in ("head.weight", "head.bias"):
        values = [state[name].flatten().sort().values for state in (before, twin.state_dict())]
        assert torch.equal(*values)
    assert not twin.training and not twin.scale.requires_grad and twin.head.weight.requires_grad


def test_a_cascade_goes_from_the_logits_down_and_keeps_what_it_has_randomised(network):
    assert weight_layers(network) == ("", "stem.0", "stem.1", "head")
    before = copy.deepcopy(network.state_dict())
    stages = list(cascade(network, generator()))
    assert [names for names, _ in stages] == [
        ("head",),
        ("head", "stem.1"),
        ("head", "stem.1", "stem.0"),
        ("head", "stem.1", "stem.0", ""),
    ]
    for names, model in stages[:3]:
        state = model.state_dict()
        for layer in ("stem.0", "stem.1", "head"):
            changed = not torch.equal(state[f"{layer}.weight"], before[f"{layer}.weight"])
            assert changed == (layer in names)
    head = [model.state_dict()["head.weight"] for _, model in stages]
    assert all(torch.equal(weight, head[0]) for weight in head)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    images = torch.rand(2, 3, 8, 8, generator=generator())
    logits = [model(images) for model in (network, *(model for _, model in stages[:3]))]
    assert all(not torch.allclose(a, b) for a, b in itertools.pairwise(logits))
    repeated = list(cascade(network, generator()))
    assert torch.equal(repeated[2][1](images), logits[3])


def test_a_cascade_in_stages_ends_with_every_layer(network):
    assert [len(names) for names, _ in cascade(network, generator(), stages=2)] == [2, 4]
    (only,) = cascade(network, generator(), stages=1)
    assert len(only[0]) == 4


def test_layers_and_stages_that_do_not_exist_are_refused(network):
    with pytest.raises(InputError, match="no layer 'stem' with weights"):
        randomised(network, ["stem"], generator())
    for stages in (0, 5):
        with pytest.raises(InputError, match="1 to 4 stages"):
            next(cascade(network, generator(), stages))
    with pytest.raises(InputError, match="0 layers"):
        next(cascade(nn.ReLU(), generator()))
