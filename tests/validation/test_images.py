"""What is asked of images and models, and what the error tells to do."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import percep
from percep import explain
from percep.errors import InputError
from percep.validation.images import require_eval, require_images, require_perturbed
from tests.support.imagetakers import (
    ASKING,
    OTHERS,
    TAKERS,
    WITHOUT_IMAGES,
    WITHOUT_IMAGES_OF_PERCEP,
    images,
    listed,
    network,
)

SHAPE = (2, 3, 8, 9)


def test_the_whole_range_is_taken_and_every_image_is_finite() -> None:
    images = torch.zeros(SHAPE)
    images[0] = 1
    assert require_images(images).tolist() == [True, True]
    assert require_images(images[:0]).shape == (0,)
    assert require_images(images.double().requires_grad_()).tolist() == [True, True]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_not_finite_marks_its_own_image(bad: float) -> None:
    images = torch.rand(SHAPE)
    images[1, 2, 3, 4] = bad
    assert require_images(images).tolist() == [True, False]
    assert require_images(images[1:]).tolist() == [False]
    assert require_images(torch.full(SHAPE, bad)).tolist() == [False, False]
    images[0, 0, 0, 0] = 2
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        require_images(images)


@pytest.mark.parametrize(
    ("scaled", "remedy"),
    [
        (lambda x: x * 255, "divide pixels by 255 if that is white"),
        (lambda x: x * 1023, "divide pixels by 1023"),
        (lambda x: x * 4095, "divide pixels by 4095"),
        (lambda x: x * 65535, "divide pixels by 65535"),
        (lambda x: x * 1e6, "divide pixels by the level of white"),
        (lambda x: x * 3.7, "divide pixels by 255 if that is white"),
        (lambda x: x * 1.7, "divide pixels by the level of white$"),
        (lambda x: 2 * x - 1, r"give \(pixels \+ 1\) / 2 if black is -1 and white 1$"),
        (lambda x: x - 0.3, r"undo what was subtracted and divided by, pixels \* std \+ mean after a normalisation$"),
        (lambda x: 1.1 * x - 0.05, r"undo what was subtracted"),
        (lambda x: (x - 0.45) / 0.22, r"pixels \* std \+ mean"),
        (lambda x: x + 1e-6, r"pixels\.clamp\(0, 1\)"),
        (lambda x: x - 1e-6, r"pixels\.clamp\(0, 1\)"),
    ],
)
def test_another_scale_is_named_with_the_way_back(scaled: Callable[[Tensor], Tensor], remedy: str) -> None:
    images = torch.linspace(0, 1, 2 * 3 * 8 * 9).reshape(SHAPE)
    with pytest.raises(InputError, match=remedy) as caught:
        require_images(scaled(images), "pixels")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("pixels must lie in [0, 1], got values in [")


@pytest.mark.parametrize(
    ("images", "remedy"),
    [
        (torch.zeros(SHAPE, dtype=torch.uint8), r"torch\.uint8: give x\.float\(\) / 255"),
        (torch.zeros(SHAPE, dtype=torch.int32), r"x\.float\(\) by the level of white"),
        (torch.zeros(SHAPE, dtype=torch.bool), "torch.bool"),
        (torch.zeros(SHAPE, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(2, 12, 11, 3), r"channels last: give x\.permute\(0, 3, 1, 2\)"),
        (torch.zeros(2, 28, 28, 1, dtype=torch.uint8), "channels last"),
        (torch.zeros(1, 224, 224, 3), "channels last"),
        (torch.zeros(0, 32, 32, 3), "channels last"),
        (torch.zeros(1, 480, 640, 4), "channels last"),
        (torch.zeros(3, 8, 9), r"give x\[None\]"),
        (torch.zeros(8, 9), r"floating-point \(B, C, H, W\), got torch.float32 \(8, 9\)"),
        (np.zeros(SHAPE, dtype=np.float32), r"got ndarray: give torch\.as_tensor\(x\)"),
        (torch.zeros(2, 0, 8, 9), "at least one pixel and channel"),
        ([[0.0]], "got list"),
        (None, "got NoneType"),
        (torch.zeros(SHAPE, dtype=torch.float8_e4m3fn), r"a type that torch computes in, .*: give x\.float\(\)"),
        (torch.zeros(SHAPE, device="meta"), "must hold values, got a tensor on the meta device"),
    ],
)
def test_another_layout_or_type_is_named_with_the_way_out(images: Tensor, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy) as caught:
        require_images(images, "x")
    assert "\n" not in str(caught.value)


NARROW = [
    *((2, 1, 8, 3), (2, 3, 3, 3), (2, 3, 2, 2), (1, 16, 16, 16), (2, 3, 8, 1), (1, 3, 224, 3), (2, 1, 28, 1)),
    *((1, 5, 16, 4), (1, 10, 16, 1), (1, 13, 64, 2), (1, 200, 3, 3), (1, 102, 10, 4), (2, 4, 300, 3)),
]


@pytest.mark.parametrize("shape", NARROW)
def test_narrow_images_are_not_taken_for_channels_last(shape: tuple[int, ...]) -> None:
    assert require_images(torch.zeros(shape)).tolist() == [True] * shape[0]


def test_perturbed_images_may_leave_the_range_but_not_the_scale() -> None:
    reference, images = torch.rand(SHAPE), torch.rand(SHAPE)
    images[0, 0, 0, 0], images[0, 0, 0, 1], images[1, 0, 0, 0] = -1, 2, torch.nan
    assert require_perturbed(images, reference).tolist() == [True, False]
    images[1, 0, 0, 1] = 2.001
    with pytest.raises(InputError, match=r"images must be images on a scale of \[0, 1\], got values in \[-1, 2\.001\]"):
        require_perturbed(images, reference)
    with pytest.raises(InputError, match="divide saved by 255"):
        require_perturbed(255 * reference, reference, "saved")
    with pytest.raises(InputError, match=r"reference and images must both be \(B, C, H, W\) of one shape"):
        require_perturbed(reference[:1], reference)


def test_a_module_deep_inside_in_train_mode_is_named() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    outer = nn.Sequential(nn.Identity(), inner).eval()
    require_eval(outer)
    require_eval(outer.forward)
    require_eval(torch.relu)
    inner[1].train()
    for model in (outer, outer.forward):
        with pytest.raises(InputError, match=r"BatchNorm2d '1\.1' is in train mode, .*call model\.eval\(\)"):
            require_eval(model)
    with pytest.raises(InputError, match="the model is in train mode"):
        require_eval(outer.train())


def test_every_public_function_is_listed_with_what_it_takes() -> None:
    known = set(listed())
    assert set(explain.__all__) == {name for name in explain.__all__ if name in known} | WITHOUT_IMAGES
    assert not known & WITHOUT_IMAGES
    modules = {"attacks", "data", "explain", "models", "solvers"}
    assert set(percep.__all__) - modules <= known | WITHOUT_IMAGES_OF_PERCEP


@pytest.mark.parametrize("name", TAKERS)
def test_whoever_takes_images_refuses_everything_else(name: str) -> None:
    model, good = network(), images(2)
    TAKERS[name](model, good)
    for bad, message in (
        ((255 * good).round().to(torch.uint8), "uint8: give .*/ 255"),
        (255 * good, "by 255"),
        (good[..., 0], r"\(B, C, H, W\)"),
        (good.permute(0, 2, 3, 1), "channels last"),
        (good.numpy(), "got ndarray"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            TAKERS[name](model, bad)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*TAKERS, *OTHERS])
def test_an_empty_batch_has_an_empty_answer(name: str) -> None:
    asked = TAKERS.get(name) or OTHERS[name]
    found, one = (_parts(asked(network(), images(batch))) for batch in (0, 1))
    for mine, alike in zip(found, one, strict=True):
        assert mine.shape == (0, *alike.shape[1:])
        assert mine.dtype == alike.dtype


def explained(name: str, x: Tensor, classes: object) -> tuple[Tensor, ...]:
    model = network()
    if name in ("insertion", "deletion", "ablation_maps"):
        order = () if name == "ablation_maps" else (x[:, 0],)
        numbers = {} if name == "ablation_maps" else {"steps": 2}
        found = getattr(explain, name)(model, x, 0.01 * x.sign() * (x < 0.9), *order, classes, classes, **numbers)
        return _parts(found if isinstance(found, Tensor) else found.margins)
    found = getattr(explain, name)(model, x, classes)
    return _parts(found if isinstance(found, Tensor) else found.maps)


@pytest.mark.slow("takes whole maps of a network")
@pytest.mark.parametrize("name", [name.removeprefix("percep.explain.") for name in ASKING])
def test_class_indices_of_every_kind_are_explained_and_others_refused(name: str) -> None:
    """As attacks take them."""
    x, classes = images(2), torch.tensor([3, 1])
    (expected,) = explained(name, x, classes)
    assert not torch.equal(expected, explained(name, x, torch.tensor([1, 3]))[0])
    for same in (classes.int(), classes.to(torch.uint8), classes.numpy(), [3, 1], (3, 1), [np.int64(3), classes[1]]):
        assert torch.equal(explained(name, x, same)[0], expected)
    assert torch.equal(explained(name, x[:1], 3)[0], explained(name, x[:1], classes[:1])[0])
    for wrong in (classes.float(), [True, False], [3], [[3], [1]], ["a", "b"], [5, 0], [-1, 0]):
        with pytest.raises(InputError, match=r"must be (integers of shape|class indices in)") as caught:
            explained(name, x, wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ASKING)
def test_a_model_in_train_mode_is_refused_and_one_in_eval_mode_left_as_it_was(name: str) -> None:
    model = network()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    asked = images(2).requires_grad_()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    TAKERS[name](model, asked)
    model[1].train()
    with pytest.raises(InputError, match=r"BatchNorm2d '1' is in train mode"):
        TAKERS[name](model, asked)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(bool((p.grad == 1).all()) and p.requires_grad for p in model.parameters())
    assert asked.requires_grad and asked.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any(module._backward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ASKING)
def test_an_error_in_the_model_leaves_no_hook(name: str) -> None:
    model, calls = network(), []

    class Failing(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            calls.append(len(values))
            if len(calls) > 1:
                raise ZeroDivisionError
            return values

    chain = nn.Sequential(model, Failing()).eval()
    with pytest.raises((ZeroDivisionError, InputError), match=r"^$|Grad-CAM fails: ZeroDivisionError"):
        TAKERS[name](chain, images(2))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in chain.modules())


class Answering(nn.Module):
    """A network with its logits in something else."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner, self.wrap = network(), wrap
        self.eval()

    def forward(self, values: Tensor) -> object:
        return self.wrap(self.inner(values))


@pytest.mark.parametrize("name", ASKING)
def test_logits_are_found_in_what_the_model_answers(name: str) -> None:
    expected = _parts(TAKERS[name](network(), images(2)))
    for wrap in (lambda y: {"logits": y}, lambda y: (y, y[:, None]), lambda y: SimpleNamespace(logits=y)):
        found = _parts(TAKERS[name](Answering(wrap), images(2)))
        assert all(torch.equal(mine, wanted) for mine, wanted in zip(found, expected, strict=True))
    with pytest.raises(InputError, match=r"the model must return .* logits"):
        TAKERS[name](Answering(lambda y: y[:, 0]), images(2))


@pytest.mark.parametrize("name", [*TAKERS, *OTHERS])
def test_inference_mode_changes_no_answer(name: str) -> None:
    asked = TAKERS.get(name) or OTHERS[name]
    model, expected = network(), _parts(asked(network(), images(2)))
    with torch.inference_mode():
        inside, made = _parts(asked(model, images(2))), images(2)
    for found in (inside, _parts(asked(model, made))):
        assert all(torch.equal(mine, wanted) for mine, wanted in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", [*TAKERS, *OTHERS])
def test_autocast_changes_no_bit_of_what_is_ours(name: str) -> None:
    asked = TAKERS.get(name) or OTHERS[name]
    model = network()

    def in_single(values: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return model(values)

    # What goes backward through the model does so under the caller's autocast.
    backward = name in ("percep.explain.gradcam", "percep.explain.integrated_gradients")
    asks = model if backward else in_single
    expected = _parts(asked(asks, images(2)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _parts(asked(asks, images(2)))
    for mine, wanted in zip(found, expected, strict=True):
        if backward:
            assert mine.dtype == wanted.dtype
            torch.testing.assert_close(mine, wanted, rtol=0.1, atol=0.1 * float(wanted.max()))
        else:
            assert mine.dtype == wanted.dtype and torch.equal(mine, wanted)


def _parts(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)
