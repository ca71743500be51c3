"""What is asked of images and models, and what the error tells to do."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from percep.errors import InputError
from percep.validation import require_eval, require_images, require_perturbed

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
        (lambda x: x * 255, "divide pixels by 255"),
        (lambda x: x * 1023, "divide pixels by 1023"),
        (lambda x: x * 4095, "divide pixels by 4095"),
        (lambda x: x * 65535, "divide pixels by 65535"),
        (lambda x: x * 1e6, "divide pixels by the level of white"),
        (lambda x: 2 * x - 1, r"\(pixels \+ 1\) / 2"),
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
        (torch.zeros(2, 8, 9, 3), r"channels last: give x\.permute\(0, 3, 1, 2\)"),
        (torch.zeros(2, 8, 9, 1, dtype=torch.uint8), "channels last"),
        (torch.zeros(3, 8, 9), r"give x\[None\]"),
        (torch.zeros(8, 9), r"floating-point \(B, C, H, W\), got torch.float32 \(8, 9\)"),
        (np.zeros(SHAPE, dtype=np.float32), r"got ndarray: give torch\.as_tensor\(x\)"),
        (torch.zeros(2, 0, 8, 9), "at least one pixel and channel"),
        ([[0.0]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_another_layout_or_type_is_named_with_the_way_out(images: Tensor, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy) as caught:
        require_images(images, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 1, 8, 3), (2, 3, 3, 3), (2, 3, 2, 2), (1, 16, 16, 16), (2, 3, 8, 1)])
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
