"""The attack: strength against a linear model's closed form, and the honesty of what it returns."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from references import KINDS, photograph, reference
from torch import Tensor, nn

from percep import InputError, Program, SSIMBall, certify, solve
from percep.attacks import AttackStatus, FrankWolfe, quantise
from percep.attacks.lattice import to_lattice

SIZE = 32


class Linear(nn.Module):
    """Logits `w_k . x + b_k`, with the offsets chosen so that class 0 leads by `lead` on a reference."""

    def __init__(self, x: Tensor, classes: int = 3, lead: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.weight = torch.randn(classes, x[0].numel(), generator=generator, dtype=x.dtype)
        target = -0.01 * torch.arange(classes, dtype=x.dtype)
        target[0] = lead - 0.01
        self.offset = target - x[:1].flatten(1).matmul(self.weight.T)[0]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T.to(images.dtype) + self.offset.to(images.dtype)


def saved(count: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.cat([photograph(3 + i, SIZE, dtype=dtype) for i in range(count)])


@pytest.mark.parametrize("level", [{"floor": 0.95}, {"mean": 0.98}, {"floor": 0.8, "mean": 0.98}])
@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_linear_model_is_turned_just_within_reach_of_the_program(level, loss):
    x = saved()
    gradient = Linear(x).weight[1] - Linear(x).weight[0]
    ball = SSIMBall(x, **level)
    ball = ball if ball.mean is None else ball.expand(torch.zeros_like(x))
    reach = float(solve(Program(ball, gradient.reshape(x.shape)), tol=1e-3).objective)
    # Rounding to 8 bits may cost a floor a quarter of its reach.
    near = FrankWolfe(Linear(x, 2, 0.7 * reach), loss=loss, **level)(x, torch.tensor([0]))
    assert near.success.tolist() == [True] and near.status == (AttackStatus.ADVERSARIAL,)
    assert near.certified.tolist() == [True]
    # The bound of one program is the most that any image of the ball can gain on a linear model.
    far = FrankWolfe(Linear(x, 2, 1.15 * reach), loss=loss, steps=3, **level)(x, torch.tensor([0]))
    assert far.success.tolist() == [False] and far.status == (AttackStatus.NOT_FOUND,)
    assert far.gradient_calls.tolist() == [3]
    assert far.certified.tolist() == [True]


def test_targeted_reaches_the_target_and_untargeted_the_nearest():
    x = saved()
    model = Linear(x, 4, lead=0.5)
    labels = torch.tensor([0])
    for target in (1, 2, 3):
        result = FrankWolfe(model, floor=0.9)(x, labels, torch.tensor([target]))
        assert result.success.tolist() == [True] and result.labels_after.tolist() == [target]
        assert int(model(result.images).argmax(1)) == target
    result = FrankWolfe(model, floor=0.9)(x, labels)
    assert result.success.tolist() == [True] and result.labels_after.tolist() != [0]


def test_result_is_what_the_files_hold():
    x = saved(3)
    model = Linear(x, lead=2.0)
    result = FrankWolfe(model, floor=0.9, mean=0.97)(x, model(x).argmax(1))
    torch.testing.assert_close(result.images, quantise(result.images), rtol=0, atol=0)
    stored = (result.images * 255).round().to(torch.uint8)
    read = stored.to(torch.float32) / 255
    certificate = certify(x, read, floor=0.9, mean=0.97)
    assert certificate.within.tolist() == result.certified.tolist() == [True] * 3
    assert certificate.min_ssim.tolist() == result.min_ssim.tolist()
    assert model(read).argmax(1).tolist() == result.labels_after.tolist()
    torch.testing.assert_close(
        result.spending >= 1 - SSIMBall(x, floor=0.9).ssim_map(read) - 1e-6,
        torch.ones(x.shape, dtype=torch.bool),
    )


def test_images_of_a_batch_do_not_meet_and_stop_on_their_own():
    x = saved(3)
    labels = torch.tensor([0, 1, 2])
    model = Linear(x, lead=1.0)
    together = FrankWolfe(model, floor=0.9)(x, labels)
    for i in range(3):
        alone = FrankWolfe(model, floor=0.9)(x[i : i + 1], labels[i : i + 1])
        assert alone.gradient_calls[0] == together.gradient_calls[i]
        assert alone.status[0] == together.status[i]
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=0)


def test_an_adversarial_reference_is_returned_unchanged():
    x = saved()
    result = FrankWolfe(Linear(x), mean=0.99)(x, torch.tensor([1]))
    assert result.status == (AttackStatus.ALREADY_ADVERSARIAL,)
    assert result.success.tolist() == [True] and result.gradient_calls.tolist() == [0]
    torch.testing.assert_close(result.images, x, rtol=0, atol=0)


class Moody(Linear):
    """NaN logits for dark images, and a NaN gradient for bright ones."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        brightness = images.flatten(1).mean(1, keepdim=True)
        logits = torch.where(brightness < 0.1, torch.nan, logits)
        bright = brightness > 0.9
        return logits + bright * torch.where(bright, brightness - brightness.detach(), 1.0).sqrt()


def test_not_finite_images_models_and_gradients_are_statuses():
    x = saved().repeat(4, 1, 1, 1)
    x[1] = 0.0
    x[2] = 1.0
    x[3, 0, 0, 0] = torch.nan
    model = Moody(x[:1])
    labels = model(x).nan_to_num().argmax(1)
    result = FrankWolfe(model, floor=0.9)(x, labels)
    assert result.status[0] == AttackStatus.ADVERSARIAL
    assert result.status[1:] == (AttackStatus.NOT_FINITE,) * 3
    assert result.success.tolist() == [True, False, False, False]
    alone = FrankWolfe(model, floor=0.9)(x[:1], labels[:1])
    torch.testing.assert_close(alone.images[0], result.images[0], rtol=0, atol=0)
    assert torch.isfinite(result.images).all()


def test_a_constant_model_has_no_gradient():
    x = saved()
    result = FrankWolfe(lambda images: images.sum() * 0 + torch.tensor([[1.0, 0.0]]), mean=0.99, steps=2)(
        x, torch.tensor([0])
    )
    assert result.status == (AttackStatus.NO_GRADIENT,)
    torch.testing.assert_close(result.images, x, rtol=0, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(0, 2**31),
    st.sampled_from([11, 16, 24, 33]),
    st.sampled_from([{"floor": 0.5}, {"floor": 0.99}, {"mean": 0.9}, {"mean": 0.9999}, {"floor": 0.9, "mean": 0.99}]),
    st.floats(-3, 0),
)
def test_lattice_images_are_always_certified(kind, seed, size, level, magnitude):
    x = quantise(reference(kind, size, channels=3, seed=seed).float())
    generator = torch.Generator().manual_seed(seed)
    delta = 10**magnitude * torch.randn(x.shape, generator=generator)
    images = to_lattice(SSIMBall(x, **level), delta)
    torch.testing.assert_close(images, quantise(images), rtol=0, atol=0)
    assert certify(x, images, **level).within.tolist() == [True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "floor, a mean or both"),
        ({"floor": 1.2}, r"floor must lie in \(0, 1\)"),
        ({"mean": 0.9, "steps": 0}, "steps"),
        ({"mean": 0.9, "loss": "hinge"}, "loss"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        FrankWolfe(Linear(saved()), **arguments)


def test_bad_calls_are_refused():
    x = saved()
    model = Linear(x)
    attack, labels = FrankWolfe(model, mean=0.99), torch.tensor([0])
    with pytest.raises(InputError, match="multiples of 1/255"):
        attack((x * 0.999).contiguous(), labels)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        attack(2 * x, labels)
    with pytest.raises(InputError, match=r"labels must be class indices in \[0, 2\]"):
        attack(x, torch.tensor([3]))
    with pytest.raises(InputError, match="targets must be int64"):
        attack(x, labels, torch.tensor([0.5]))
    with pytest.raises(InputError, match="train mode"):
        FrankWolfe(model.train(), mean=0.99)(x, labels)
