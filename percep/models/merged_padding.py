"""Convolutions with the padding of TensorFlow, "same", that do not copy their input to pad it."""

from collections.abc import Callable

from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

Zeros = Callable[[int, int], tuple[int, int, int, int]]
"""From the height and width of an input to the zeros added on the left, on the right, at the top and at the bottom."""


class MergedPadding(nn.Conv2d):
    """A convolution after a padding by zeros, of which one more may be added at the end of an axis than before it.

    torch's convolutions pad both ends alike, so that networks with TensorFlow's padding copy their inputs. Here both
    ends get the larger number, and where the smaller one was asked for, the kernel begins with a row or column of zeros
    that reads the one too many. The sums have the same terms.

    Args:
        other: a convolution without padding of its own, of dilation 1, whose weights are shared.
        zeros: how its input is padded.
    """

    def __init__(self, other: nn.Conv2d, zeros: Zeros) -> None:
        rows, columns = other.kernel_size
        steps = (int(other.stride[0]), int(other.stride[1]))
        sizes = (other.in_channels, other.out_channels, (rows, columns), steps)
        super().__init__(*sizes, groups=other.groups, bias=other.bias is not None, device="meta")
        self.weight, self.bias, self.zeros = other.weight, other.bias, zeros
        self.train(other.training)

    def forward(self, input: Tensor) -> Tensor:
        """`(B, C, H, W)` to what the convolution gives of the padded input."""
        left, right, top, bottom = self.zeros(int(input.shape[-2]), int(input.shape[-1]))
        weight = self.weight
        if (left, top) != (right, bottom):
            weight = functional.pad(weight, (right - left, 0, bottom - top, 0))
        return functional.conv2d(input, weight, self.bias, self.stride, (bottom, right), groups=self.groups)


def with_merged_padding(convolution: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with its padding merged, where it is timm's or one with a `static_padding`; else itself."""
    zeros = _zeros(convolution)
    if zeros is None or any(convolution.padding) or any(step != 1 for step in convolution.dilation):
        return convolution
    return MergedPadding(convolution, zeros)


def _zeros(convolution: nn.Conv2d) -> Zeros | None:
    if type(convolution) is Conv2dSame:
        return _same(convolution)
    # The networks of efficientnet-lite-pytorch, which pad for one size of image.
    static = getattr(convolution, "static_padding", None)
    if type(static) is nn.ZeroPad2d:
        left, right, top, bottom = static.padding
        if right - left in (0, 1) and bottom - top in (0, 1):
            return lambda height, width: (left, right, top, bottom)
    return None


def _same(convolution: nn.Conv2d) -> Zeros:
    def along(side: int, kernel: int, step: int) -> tuple[int, int]:
        zeros = max((-(-side // step) - 1) * step + kernel - side, 0)
        return zeros // 2, zeros - zeros // 2

    (rows, columns), (down, across) = convolution.kernel_size, convolution.stride
    return lambda height, width: (*along(width, columns, across), *along(height, rows, down))
