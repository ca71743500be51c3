"""The attack: strength against a linear model's closed form, and that what it returns is what it says."""

import itertools

import hypothesis.strategies as st
import kornia
import pytest
import torch
from hypothesis import given, settings
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from percep import InputError, Multipliers, Program, SSIMBall, Window, certify, solve
from percep.attacks import AttackStatus, FrankWolfe, quantise
from percep.attacks.cost import Cost
from percep.attacks.criteria import achieved, loss, margin
from percep.attacks.quantisation import descend, quantise_into_ball, quantise_perturbation, quantised_optimum
from tests.support.moods import Moods
from tests.support.references import KINDS, photograph, random_like, reference

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


def scaled(model: Linear) -> nn.Module:
    """Logits of a size at which a cross-entropy has a gradient in float32, and a third class behind all others."""

    class Scaled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = model(images) / 8
            return torch.cat([logits, logits.amin(1, keepdim=True) - 1], 1)

    return Scaled().eval()


@pytest.mark.slow("whole attacks, each step of which solves a program")
@pytest.mark.parametrize("level", [{"floor": 0.95}, {"mean": 0.98}, {"floor": 0.8, "mean": 0.98}])
@pytest.mark.parametrize("name", ["margin", "cross_entropy", "dlr"])
def test_linear_model_is_fooled_just_within_reach_of_the_program(level, name):
    x = saved()
    gradient = Linear(x).weight[1] - Linear(x).weight[0]
    ball = SSIMBall(x, **level)
    ball = ball if ball.mean is None else ball.expand(torch.zeros_like(x))
    reach = float(solve(Program(ball, gradient.reshape(x.shape)), tol=1e-3).objective)
    # The true floor is wider than the program's, by more than rounding to 8 bits costs; a mean pays for the rounding.
    share = 1.0 if "mean" not in level else 0.85
    near = FrankWolfe(scaled(Linear(x, 2, share * reach)), loss=name, **level)(x, torch.tensor([0]))
    assert near.success.tolist() == [True] and near.status == (AttackStatus.ADVERSARIAL,)
    assert near.certified.tolist() == [True]
    # What the program of the squared floor reaches is the most that any image of the ball can gain on a linear model.
    far = FrankWolfe(scaled(Linear(x, 2, 2 * reach)), loss=name, steps=3, **level)(x, torch.tensor([0]))
    assert far.success.tolist() == [False] and far.status == (AttackStatus.NOT_FOUND,)
    assert far.gradient_calls.tolist() == [3]
    assert far.certified.tolist() == [True]


@pytest.mark.slow("whole attacks, each step of which solves a program")
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


class Moody(Moods, Linear):
    pass


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


def test_restarts_follow_the_classes_that_the_margin_does_not():
    x = saved()
    gradient = torch.randn(x[0].numel(), generator=torch.Generator().manual_seed(3))
    far = torch.zeros_like(gradient)

    def model(images: Tensor) -> Tensor:
        """Class 1 is close and can never be reached, class 2 farther and within reach."""
        moved = (images - x).flatten(1)
        first = -0.1 - (moved @ gradient).square() * 10
        second = -0.5 + moved @ gradient.roll(1)
        return torch.stack([moved @ far, first, second], 1)

    labels = torch.tensor([0])
    alone = FrankWolfe(model, mean=0.999, steps=4)(x, labels)
    assert alone.status == (AttackStatus.NO_GRADIENT,) or not bool(alone.success[0])
    restarted = FrankWolfe(lambda images: model(images + 1e-4), mean=0.999, steps=4, restarts=2)(x, labels)
    assert restarted.success.tolist() == [True] and restarted.labels_after.tolist() == [2]
    assert int(restarted.gradient_calls[0]) <= 12


def test_the_k_best_classes_are_left_or_entered():
    x = saved()
    model = Linear(x, 6, lead=0.5)
    labels = torch.tensor([0])
    left = FrankWolfe(model, mean=0.99, top_k=3)(x, labels)
    assert left.success.tolist() == [True] and 0 not in model(left.images).topk(3, 1).indices[0].tolist()
    entered = FrankWolfe(model, mean=0.9999, top_k=5)(x, labels, torch.tensor([5]))
    assert entered.success.tolist() == [True] and 5 in model(entered.images).topk(5, 1).indices[0].tolist()


def test_a_gradient_of_the_user_s_is_followed_and_the_model_decides_success():
    x = saved()
    model = Linear(x, 2, lead=0.5)
    calls = []

    def ensemble(images: Tensor, labels: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        calls.append(len(images))
        return torch.zeros(len(images)), (model.weight[1] - model.weight[0]).expand(len(images), -1).reshape(
            images.shape
        )

    result = FrankWolfe(model, mean=0.99, gradient=ensemble)(x, torch.tensor([0]))
    assert result.success.tolist() == [True] and result.gradient_calls.tolist() == [sum(calls)]
    with pytest.raises(InputError, match="restarts"):
        FrankWolfe(model, mean=0.99, gradient=ensemble, restarts=1)


def test_losses_against_their_formulas():
    logits = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.0, 5.0, 4.0, 1.0]])
    labels, targets = torch.tensor([0, 1]), torch.tensor([1, 3])
    # Croce and Hein, ICML 2020: -(z_y - max_other) / (z_1 - z_3), and -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2).
    torch.testing.assert_close(loss("dlr", logits, labels, None), torch.tensor([-1 / 2, -1 / 4]))
    torch.testing.assert_close(loss("dlr", logits, labels, targets), torch.tensor([-2 / 3, -4 / 4.5]))
    torch.testing.assert_close(margin(logits, labels, None, 2), torch.tensor([-2.0, -4.0]))
    torch.testing.assert_close(margin(logits, labels, targets, 2), torch.tensor([-1.0, -3.0]))
    assert achieved(logits, torch.tensor([2, 0]), None, 2).tolist() == [False, True]
    torch.testing.assert_close(loss("dlr", 7 * logits, labels, None), loss("dlr", logits, labels, None))
    with pytest.raises(InputError, match="three classes"):
        loss("dlr", logits[:, :2], labels, None)
    with pytest.raises(InputError, match="four classes"):
        loss("dlr", logits[:, :3], labels, targets)


@pytest.mark.slow("whole attacks, each step of which solves a program")
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(0, 2**31),
    st.sampled_from([11, 16, 33]),
    st.sampled_from([{"floor": 0.5}, {"floor": 0.99}, {"mean": 0.9}, {"mean": 0.9999}, {"floor": 0.9, "mean": 0.99}]),
)
def test_quantised_optima_are_certified_whatever_the_multipliers(kind, seed, size, level):
    x = quantise(reference(kind, size, channels=3, seed=seed).float())
    generator = torch.Generator().manual_seed(seed)
    ball = SSIMBall(x, **level)
    linear_term = torch.randn(x.shape, generator=generator)
    multipliers = Multipliers.of(
        torch.rand(ball.map_shape, generator=generator) if ball.floor is not None else None,
        torch.rand(ball.map_shape, generator=generator) if ball.floor is not None else None,
        torch.rand(1, 1, 1, 1, generator=generator) if ball.mean is not None else None,
    )
    images = quantised_optimum(ball, linear_term, multipliers, torch.randn(x.shape, generator=generator))
    torch.testing.assert_close(images, quantise(images), rtol=0, atol=0)
    assert certify(x, images, **level).within.tolist() == [True]
    assert float((linear_term * (images - x)).sum()) >= 0


def test_descent_never_rises():
    x = saved(2)
    quadratic = Cost.of_reference(x, Window.gaussian(), "mean").quadratic(torch.zeros_like(x))
    linear_term = random_like(x, 4) * 1e-6
    delta = quantise_perturbation(0.02 * random_like(x, 5), x)

    def value(d: Tensor) -> float:
        return float((d.double() * quadratic.product(d).double() / 2 - linear_term.double() * d.double()).sum())

    values = [value(delta)]
    for _ in range(8):
        delta = descend(quadratic, linear_term, delta, x)
        torch.testing.assert_close((x + delta) * 255, ((x + delta) * 255).round(), rtol=0, atol=1e-3)
        values.append(value(delta))
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(values))
    assert values[-1] < values[0]


@pytest.mark.slow("a thousand images, each measured by two other libraries")
@pytest.mark.parametrize("size", [12, 14, 17, 20, 24])
def test_no_certified_image_of_a_thousand_violates_its_ball(size):
    """200 random images of each size, half with a floor and half with a mean, measured by kornia and scikit-image."""
    kinds = [reference(KINDS[i % len(KINDS)], size, channels=1, seed=i) for i in range(200)]
    x = quantise(torch.cat(kinds).float())
    model = Linear(x[:1].expand(1, 1, size, size), 3, lead=0.2)
    labels = model(x).argmax(1)
    for part, level in ((slice(0, 100), {"floor": 0.97}), (slice(100, 200), {"mean": 0.999})):
        result = FrankWolfe(model, steps=2, **level)(x[part], labels[part])
        assert bool(result.certified.all())
        references, images = x[part].double(), result.images.double()
        every_map = kornia.metrics.ssim(references, images, 11, eps=0)
        for reference_image, image, maps in zip(references, images, every_map, strict=True):
            inner = structural_similarity(
                reference_image[0].numpy(), image[0].numpy(), data_range=1, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False, full=True,
            )[1][5:-5, 5:-5]  # fmt: skip
            if "floor" in level:
                assert float(maps.min()) >= 0.97 - 1e-9 and inner.min() >= 0.97 - 1e-9
            else:
                assert float(maps.mean()) >= 0.999 - 1e-9


@pytest.mark.slow("whole attacks, each step of which solves a program")
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(0, 2**31),
    st.sampled_from([11, 16, 24, 33]),
    st.sampled_from([{"floor": 0.5}, {"floor": 0.99}, {"mean": 0.9}, {"mean": 0.9999}, {"floor": 0.9, "mean": 0.99}]),
    st.floats(-3, 0),
)
def test_quantised_images_are_always_certified(kind, seed, size, level, magnitude):
    x = quantise(reference(kind, size, channels=3, seed=seed).float())
    generator = torch.Generator().manual_seed(seed)
    delta = 10**magnitude * torch.randn(x.shape, generator=generator)
    images = quantise_into_ball(SSIMBall(x, **level), delta)
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
    with pytest.raises(InputError, match="targets must be integers"):
        attack(x, labels, torch.tensor([0.5]))
    with pytest.raises(InputError, match="train mode"):
        FrankWolfe(model.train(), mean=0.99)(x, labels)


@pytest.mark.parametrize("levels", [16, 256, 4096, 65536, None])
@pytest.mark.parametrize("level", [{"floor": 0.9}, {"mean": 0.98}, {"floor": 0.8, "mean": 0.98}])
def test_every_number_of_levels_is_kept_inside_the_ball(levels, level):
    x = quantise(saved(), levels)
    lead = 0.5 if levels != 16 else 0.05
    result = FrankWolfe(Linear(x, 3, lead), levels=levels, **level)(x, [0])
    assert result.success.tolist() == [True] and certify(x, result.images, **level).within.tolist() == [True]
    torch.testing.assert_close(result.images, quantise(result.images, levels), rtol=0, atol=0)
    if levels in (4096, 65536):  # finer than 8 bits, and used
        assert not torch.equal(result.images, quantise(result.images))


@pytest.mark.slow("whole attacks, each step of which solves a program")
@pytest.mark.parametrize("level", [{"floor": 0.9}, {"mean": 0.98}])
def test_in_floating_point_a_linear_model_is_moved_as_far_as_the_program_says(level):
    x = saved()
    model = Linear(x, 2, 1e4)
    gradient = (model.weight[1] - model.weight[0]).reshape(x.shape)
    ball = SSIMBall(x, **level)
    ball = ball if ball.mean is None else ball.expand(torch.zeros_like(x))
    reach = float(solve(Program(ball, gradient), tol=1e-3).objective)
    gains = [
        float((gradient * (FrankWolfe(model, steps=1, levels=levels, **level)(x, [0]).images - x)).sum())
        for levels in (None, 65536, 256)
    ]
    # The true floor is wider than the program's; the mean's ellipsoid is followed to the true mean.
    assert gains[0] >= 0.97 * reach and gains[1] >= 0.97 * gains[0] and gains[0] >= 0.97 * gains[2]


@pytest.mark.slow("whole attacks, each step of which solves a program")
def test_probabilities_are_attacked_like_logits():
    x = saved()
    model = Linear(x, 4, lead=30.0)  # whose probability is 1 in float32, without a gradient
    for name in ("margin", "cross_entropy", "dlr"):
        expected = FrankWolfe(model, floor=0.9, steps=4, loss=name)(x, [0])
        found = FrankWolfe(lambda images: model(images).softmax(1), floor=0.9, steps=4, loss=name)(x, [0])
        assert found.status == expected.status and found.gradient_calls.tolist() == expected.gradient_calls.tolist()
        if name != "cross_entropy":  # whose own gradient on these logits has lost the label's share to rounding
            assert float((found.images != expected.images).float().mean()) < 0.05


@pytest.mark.parametrize("loss_of_gradient", ["masked", "not finite"])
def test_an_iterate_without_a_gradient_is_not_the_end(loss_of_gradient):
    x = saved()
    model = Linear(x, 2, lead=0.5)
    length = float((FrankWolfe(Linear(x, 2, 1e4), mean=0.99, steps=1)(x, [0]).images - x).norm())

    def broken(images: Tensor) -> Tensor:
        """The linear model near the reference; far from it a constant, or NaN."""
        far = (images - x).flatten(1).norm(dim=1, keepdim=True) > 0.7 * length
        constant = torch.tensor([[1.0, 0.0]]) if loss_of_gradient == "masked" else torch.full((1, 2), torch.nan)
        return torch.where(far, constant, model(images))

    result = FrankWolfe(broken, mean=0.99, steps=4)(x, [0])
    assert result.status == (AttackStatus.ADVERSARIAL,) and result.success.tolist() == [True]


def test_gradients_beyond_a_dtype_s_squares_are_followed():
    x = saved()
    model = Linear(x, 3, lead=0.5)
    expected = FrankWolfe(model, mean=0.99)(x, [0])
    for scale in (1e-25, 1e25):
        assert (
            FrankWolfe(lambda images, scale=scale: scale * model(images), mean=0.99)(x, [0]).status == expected.status
        )
