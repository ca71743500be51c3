"""The sliding window: local mean, its adjoint and their squared-weight versions. Nothing else convolves.

A window is separable, so each operator is two one-dimensional passes. On sides up to 96 pixels a pass is a product with
a small dense matrix. Beyond, it is a sum of shifted, scaled slices: the same code for every stride, and its adjoint is
the same sum with source and destination exchanged. Large planes are treated one at a time, so that the partial sums
stay in cache. Compiled kernels take over where there are some (`kernels`), and this is their definition.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from percep import kernels
from percep.errors import InputError
from percep.kernels.geometry import Geometry, Padding
from percep.precision import product

_DENSE_SIDE = 96
_CACHED_PLANE = 2**18


@dataclass(frozen=True, repr=False)
class Window(Geometry):
    """A separable averaging window of `size x size` taps that sum to 1, moved by `stride`.

    Build it with `Window.gaussian` or `Window.uniform`. With `padding="reflect"` the image is mirrored about
    its border pixels (kornia's `padding="same"`), and a stride of 1 gives a map of the image's size; with
    `padding="valid"` only windows inside the image count.

    Attributes:
        taps: one-dimensional weights; the window's weight at `(i, j)` is `taps[i] * taps[j]`.
        stride: step between neighbouring windows in pixels, at most `size` so that windows leave no hole.
        padding: "reflect" or "valid".
    """

    @classmethod
    def gaussian(cls, size: int = 11, sigma: float = 1.5, stride: int = 1, padding: Padding = "reflect") -> "Window":
        """Gaussian weights, the default of SSIM (Wang et al., IEEE TIP 2004): 11 taps, sigma 1.5 pixels."""
        if size < 1 or not sigma > 0:
            raise InputError(f"a Gaussian window needs size >= 1 and sigma > 0, got {size} and {sigma}")
        centre = (size - 1) / 2
        weights = [math.exp(-((i - centre) ** 2) / (2 * sigma**2)) for i in range(size)]
        total = math.fsum(weights)
        return cls(tuple(weight / total for weight in weights), stride, padding)

    @classmethod
    def uniform(cls, size: int = 8, stride: int = 1, padding: Padding = "reflect") -> "Window":
        """Equal weights over `size x size` pixels."""
        if size < 1:
            raise InputError(f"a uniform window needs size >= 1, got {size}")
        return cls((1.0 / size,) * size, stride, padding)

    def __repr__(self) -> str:
        kind = "uniform" if len(set(self.taps)) == 1 else f"standard deviation {self.second_moment**0.5:.3g}"
        return f"Window({self.size}x{self.size} taps, {kind}, stride {self.stride}, padding {self.padding!r})"

    def mean(self, values: Tensor) -> Tensor:
        """Local weighted mean `A v`: `(..., H, W)` to `(..., h, w)` with `(h, w) = grid(H, W)`."""
        return self._apply_mean(values, self.taps)

    def adjoint(self, values: Tensor, height: int, width: int) -> Tensor:
        """`A' u`, `(..., h, w)` to `(..., height, width)`: the exact adjoint of `mean`, padding included."""
        return self._apply_adjoint(values, self.taps, height, width)

    def squared_mean(self, values: Tensor) -> Tensor:
        """Local sum with squared weights, for norms of a window's gradient; exact away from mirrored pixels."""
        return self._apply_mean(values, tuple(tap**2 for tap in self.taps))

    def squared_adjoint(self, values: Tensor, height: int, width: int) -> Tensor:
        """The exact adjoint of `squared_mean`."""
        return self._apply_adjoint(values, tuple(tap**2 for tap in self.taps), height, width)

    def _apply_mean(self, values: Tensor, taps: tuple[float, ...]) -> Tensor:
        if values.requires_grad and torch.is_grad_enabled():
            averaged: Tensor = _Average.apply(values, self, taps)
            return averaged
        if launch := kernels.launcher_for(values, self):
            return launch.mean(values, self, taps)
        height, width = (int(side) for side in values.shape[-2:])
        rows, columns = self.grid(height, width)
        if max(height, width) <= _DENSE_SIDE:
            vertical, horizontal = (self._matrix(taps, side, values) for side in (height, width))
            return product(vertical, product(values, horizontal.mT))
        if not values.numel():
            return values.new_empty(*values.shape[:-2], rows, columns)
        before, after = self.margins
        results = []
        for planes in _cached_planes(values):
            padded = F.pad(planes, (before, after, before, after), mode="reflect") if before or after else planes
            narrow = _correlate(padded, taps, self.stride, columns, dim=2)
            results.append(_correlate(narrow, taps, self.stride, rows, dim=1))
        return _concatenated(results).reshape(*values.shape[:-2], rows, columns)

    def _apply_adjoint(self, values: Tensor, taps: tuple[float, ...], height: int, width: int) -> Tensor:
        if values.requires_grad and torch.is_grad_enabled():
            mapped: Tensor = _Adjoint.apply(values, self, taps, height, width)
            return mapped
        if tuple(values.shape[-2:]) != self.grid(height, width):
            raise InputError(
                f"a {height}x{width} image has {self.grid(height, width)} windows, not {tuple(values.shape[-2:])}"
            )
        if launch := kernels.launcher_for(values, self, (height, width)):
            return launch.adjoint(values, self, taps, height, width)
        if max(height, width) <= _DENSE_SIDE:
            vertical, horizontal = (self._matrix(taps, side, values) for side in (height, width))
            return product(vertical.mT, product(values, horizontal))
        if not values.numel():
            return values.new_empty(*values.shape[:-2], height, width)
        margins = self.margins
        results = []
        for planes in _cached_planes(values):
            tall = _fold(_scatter(planes, taps, self.stride, self._padded(height), dim=1), margins, dim=1)
            results.append(_fold(_scatter(tall, taps, self.stride, self._padded(width), dim=2), margins, dim=2))
        return _concatenated(results).reshape(*values.shape[:-2], height, width)

    def _matrix(self, taps: tuple[float, ...], length: int, like: Tensor) -> Tensor:
        return _dense_pass(taps, self.stride, self.margins, length, like.dtype, like.device)

    def _padded(self, length: int) -> int:
        return length + sum(self.margins)


class _Average(torch.autograd.Function):
    """The local mean, differentiated by its adjoint: autograd would scatter slice by slice."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, window: Window, taps: tuple[float, ...]) -> Tensor:
        ctx.window, ctx.taps, ctx.size = window, taps, (int(values.shape[-2]), int(values.shape[-1]))
        return window._apply_mean(values, taps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.window._apply_adjoint(gradient, ctx.taps, *ctx.size), None, None


class _Adjoint(torch.autograd.Function):
    """The adjoint, differentiated by the local mean."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, window: Window, taps: tuple[float, ...], height: int, width: int) -> Tensor:
        ctx.window, ctx.taps = window, taps
        return window._apply_adjoint(values, taps, height, width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return ctx.window._apply_mean(gradient, ctx.taps), None, None, None, None


@lru_cache(maxsize=64)
def _dense_pass(
    taps: tuple[float, ...],
    stride: int,
    margins: tuple[int, int],
    length: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """One pass as a matrix, `(windows, length)`: the passes below applied to the identity."""
    identity = torch.eye(length, dtype=torch.float64)[None]
    padded = F.pad(identity, margins, mode="reflect") if any(margins) else identity
    count = (length + sum(margins) - len(taps)) // stride + 1
    return _correlate(padded, taps, stride, count, dim=2)[0].T.contiguous().to(device, dtype)


def _cached_planes(values: Tensor) -> list[Tensor]:
    """`(N, H, W)` views of the planes of `(..., H, W)`, one by one when a plane is large."""
    planes = values.reshape(-1, *values.shape[-2:])
    if planes.shape[-1] * planes.shape[-2] <= _CACHED_PLANE or values.device.type != "cpu":
        return [planes]
    return list(planes.split(1))


def _concatenated(results: list[Tensor]) -> Tensor:
    return results[0] if len(results) == 1 else torch.cat(results)


def _strided_slice(values: Tensor, dim: int, start: int, stride: int, count: int) -> Tensor:
    stop = start + stride * (count - 1) + 1
    return values[:, start:stop:stride] if dim == 1 else values[:, :, start:stop:stride]


def _correlate(values: Tensor, taps: tuple[float, ...], stride: int, count: int, dim: int) -> Tensor:
    result = _strided_slice(values, dim, 0, stride, count) * taps[0]
    for start, tap in enumerate(taps[1:], 1):
        result.add_(_strided_slice(values, dim, start, stride, count), alpha=tap)
    return result


def _scatter(values: Tensor, taps: tuple[float, ...], stride: int, length: int, dim: int) -> Tensor:
    shape = list(values.shape)
    count, shape[dim] = shape[dim], length
    result = torch.zeros(shape, dtype=values.dtype, device=values.device)
    for start, tap in enumerate(taps):
        _strided_slice(result, dim, start, stride, count).add_(values, alpha=tap)
    return result


def _fold(values: Tensor, margins: tuple[int, int], dim: int) -> Tensor:
    before, after = margins
    length = values.shape[dim] - before - after
    result = values.narrow(dim, before, length)
    if before:
        result.narrow(dim, 1, before).add_(values.narrow(dim, 0, before).flip(dim))
    if after:
        result.narrow(dim, length - 1 - after, after).add_(values.narrow(dim, before + length, after).flip(dim))
    return result
