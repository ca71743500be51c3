"""A merged padding gives what the padding and the convolution give one after the other."""

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from percep.models.merged_padding import MergedPadding, with_merged_padding


class _Padded(nn.Conv2d):
    """As in efficientnet-lite-pytorch."""

    def __init__(self, zeros: tuple[int, int, int, int], **settings: int) -> None:
        super().__init__(4, 6, 3, stride=2, **settings)
        self.static_padding = nn.ZeroPad2d(zeros)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(self.static_padding(input))


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 9), (11, 6)])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups"),
    [(3, 1, 1), (3, 2, 4), (5, 2, 2), (2, 1, 1), ((3, 5), (1, 2), 1), (1, 2, 1), (3, 3, 1)],
)
def test_same_padding_of_any_size(
    size: tuple[int, int], kernel: int | tuple[int, int], stride: int | tuple[int, int], groups: int
) -> None:
    torch.manual_seed(0)
    expected = Conv2dSame(4, 8, kernel, stride=stride, groups=groups).double()
    found = with_merged_padding(expected)
    assert isinstance(found, MergedPadding)
    images = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(found(images), expected(images))
    weights = torch.randn_like(expected(images))
    gradients = [torch.autograd.grad((one(images) * weights).sum(), images)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("zeros", [(1, 1, 1, 1), (0, 1, 0, 1), (1, 2, 0, 0), (2, 2, 1, 2)])
def test_a_padding_for_one_size(zeros: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    expected = _Padded(zeros)
    found = with_merged_padding(expected)
    assert isinstance(found, MergedPadding)
    images = torch.randn(2, 4, 9, 12)
    torch.testing.assert_close(found(images), expected(images))


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        _Padded((0, 2, 0, 2)),
        _Padded((1, 0, 1, 0)),
        _Padded((1, 1, 1, 1), padding=1),
        _Padded((1, 1, 1, 1), dilation=2),
        Conv2dSame(4, 6, 3, dilation=2),
    ],
)
def test_others_stay_as_they_are(other: nn.Conv2d) -> None:
    assert with_merged_padding(other) is other
