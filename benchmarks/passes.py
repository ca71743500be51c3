"""Ways to compute a local mean on a CPU that were measured; those that were slower exist only here."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from percep import Window
from percep.windows import _correlate

_ROWS = 16


Way = Callable[[Tensor], Tensor]


def ways(window: Window) -> dict[str, Way]:
    """Functions from `(1, C, H, W)` to the local mean, for a mirrored window of stride 1; none is compiled."""
    return {"as in percep": window.mean} | _sums(window) | _convolutions(window) | _transforms(window)


def _padded(window: Window, values: Tensor) -> Tensor:
    before, after = (window.size - 1) // 2, window.size // 2
    return F.pad(values, (before, after, before, after), mode="reflect")


def _sums(window: Window) -> dict[str, Way]:
    def shifted(values: Tensor) -> Tensor:
        height, width = values.shape[-2:]
        narrow = _correlate(_padded(window, values)[0], window.taps, 1, width, 2)
        return _correlate(narrow, window.taps, 1, height, 1)[None]

    def folded(values: Tensor) -> Tensor:
        height, width = values.shape[-2:]
        return _folded(_folded(_padded(window, values), window.taps, width, 3), window.taps, height, 2)

    return {"sums of shifted slices": shifted, "sums of shifted slices, symmetric taps folded": folded}


def _convolutions(window: Window) -> dict[str, Way]:
    size, taps = window.size, torch.tensor(window.taps)

    def depthwise(values: Tensor) -> Tensor:
        channels = values.shape[1]
        down = taps.reshape(1, 1, size, 1).expand(channels, 1, size, 1)
        return F.conv2d(F.conv2d(_padded(window, values), down, groups=channels), down.mT, groups=channels)

    def depthwise_channels_last(values: Tensor) -> Tensor:
        return depthwise(values.contiguous(memory_format=torch.channels_last))

    def one_channel(values: Tensor) -> Tensor:
        down = taps.reshape(1, 1, size, 1)
        return F.conv2d(F.conv2d(_padded(window, values).transpose(0, 1), down), down.mT).transpose(0, 1)

    def square(values: Tensor) -> Tensor:
        channels = values.shape[1]
        weight = torch.outer(taps, taps).expand(channels, 1, size, size)
        return F.conv2d(_padded(window, values), weight, groups=channels)

    def columns_as_channels(values: Tensor) -> Tensor:
        """Depthwise down the columns, as channels; strips of 16 rows transposed for the other pass."""
        mirrored = _padded(window, values)[0]
        channels, height, width = values.shape[1:]
        wide = mirrored.shape[-1]
        pixels = mirrored.reshape(channels, 1, -1, wide).permute(0, 3, 1, 2)
        tall = F.conv2d(pixels, taps.expand(wide, 1, 1, size), groups=wide).permute(0, 2, 3, 1)
        tall = F.pad(tall.reshape(channels, height, wide), (0, 0, 0, -height % _ROWS))
        strips = tall.reshape(channels, -1, _ROWS, wide).transpose(2, 3).contiguous().permute(0, 3, 1, 2)
        flat = F.conv2d(strips, taps.expand(_ROWS, 1, 1, size), groups=_ROWS).permute(0, 2, 1, 3)
        return flat.reshape(channels, -1, width)[None, :, :height]

    return {
        "depthwise convolutions": depthwise,
        "depthwise convolutions, channels last": depthwise_channels_last,
        "convolutions of one channel": one_channel,
        "one depthwise convolution, not separated": square,
        "depthwise convolutions, columns as channels": columns_as_channels,
    }


def _transforms(window: Window) -> dict[str, Way]:
    size, taps = window.size, torch.tensor(window.taps)

    def dense(values: Tensor) -> Tensor:
        vertical, horizontal = (window._matrix(window.taps, int(side), values) for side in values.shape[-2:])
        return vertical @ (values @ horizontal.mT)

    def spectrum(values: Tensor) -> Tensor:
        mirrored = _padded(window, values)
        sides = (int(mirrored.shape[-2]), int(mirrored.shape[-1]))
        transfer = torch.outer(torch.fft.fft(taps, sides[0]), torch.fft.fft(taps, sides[1]))[:, : sides[1] // 2 + 1]
        product = torch.fft.irfft2(torch.fft.rfft2(mirrored) * transfer, sides)
        return product[..., size - 1 :, size - 1 :]

    return {"dense matrices": dense, "Fourier transforms": spectrum}


def _folded(values: Tensor, taps: tuple[float, ...], count: int, dim: int) -> Tensor:
    """A pass with symmetric taps, half the multiplications and twice the additions."""
    size = len(taps)
    middle = size // 2
    total = values.narrow(dim, middle, count) * (taps[middle] if size % 2 else 0.0)
    for start in range(size // 2):
        pair = values.narrow(dim, start, count) + values.narrow(dim, size - 1 - start, count)
        total.add_(pair, alpha=taps[start])
    return total
