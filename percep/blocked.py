"""Passes of stride 1 with mirrored borders as products with small blocks, in float32 on a CPU.

Such a pass is a square matrix that, but for a few rows at its ends, repeats one band of taps. Down the columns, 16
rows of the result are a small matrix times the rows they see: a batched product of overlapping views, no copy. Along
the rows, the planes are read as one long line: as matrices of 16 columns at several offsets, each times a piece of the
band. A block that straddles two rows or planes comes out wrong; the ends are then overwritten by products of their own.

A product with blocks multiplies more than it has to, 26 times instead of 11 for 11 taps, and is still faster than a sum
of shifted slices, whose loads and stores cost more: `python -m benchmarks.device` has both, and what else was tried.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 16


class Bands(NamedTuple):
    """A pass, cut up.

    Attributes:
        inner: `(_BLOCK, _BLOCK + taps - 1)`, what it does away from the ends.
        before: how far up a row of the result looks.
        first, last: the rows at the ends, `(ends, n)`: on the first and on the last n values.
    """

    inner: Tensor
    before: int
    first: Tensor
    last: Tensor


def fits(taps: int, height: int, width: int) -> bool:
    """Whether the sides are long enough to have blocks away from their ends."""
    return min(height, width) >= 2 * (taps + _BLOCK)


@lru_cache(maxsize=64)
def bands(taps: tuple[float, ...], margins: tuple[int, int], adjoint: bool) -> Bands:
    """The pass that correlates with `taps` after mirroring `margins` values about the ends, or its adjoint."""
    size = len(taps)
    length, ends = 4 * (size + _BLOCK), max(margins) + 1
    padded = F.pad(torch.eye(length, dtype=torch.float64)[None], margins, mode="reflect")[0]
    matrix = sum(tap * padded[:, start : start + length] for start, tap in enumerate(taps))
    assert isinstance(matrix, Tensor)
    matrix = (matrix if adjoint else matrix.T).float()
    middle, before = length // 2, margins[adjoint]
    inner = matrix[middle : middle + _BLOCK, middle - before : middle - before + _BLOCK + size - 1]
    reach = ends + size
    return Bands(inner.contiguous(), before, matrix[:ends, :reach].contiguous(), matrix[-ends:, -reach:].contiguous())


def apply(values: Tensor, vertical: Bands, horizontal: Bands) -> Tensor:
    """Both passes of `(N, H, W)` planes; what is not finite in one may spoil its neighbours."""
    values = values.contiguous()
    slack, count = _BLOCK + horizontal.inner.shape[1], values.numel()
    middle, result = values.new_empty(count + 2 * slack), values.new_empty(count + 2 * slack)
    middle[:slack].zero_()
    middle[-slack:].zero_()
    _down(values, vertical, middle[slack : slack + count].view(values.shape))
    _along(middle, horizontal, result, slack, count)
    _ends(middle[slack : slack + count], horizontal, result[slack : slack + count], values.shape[-1])
    return result[slack : slack + count].view(values.shape)


def _down(values: Tensor, bands: Bands, result: Tensor) -> None:
    planes, height, width = values.shape
    ends, seen = len(bands.first), bands.inner.shape[1]
    rows = planes * height - 2 * ends
    for first, count in ((ends, rows // _BLOCK), (ends + rows - _BLOCK, 1)):  # the second if rows are left over
        stride = (_BLOCK * width, width, 1)
        source = values.as_strided(
            (count, seen, width), stride, values.storage_offset() + (first - bands.before) * width
        )
        target = result.as_strided((count, _BLOCK, width), stride, result.storage_offset() + first * width)
        torch.bmm(bands.inner.expand(count, -1, -1), source, out=target)
    reach = bands.first.shape[1]
    torch.bmm(bands.first.expand(planes, -1, -1), values[:, :reach], out=result[:, :ends])
    torch.bmm(bands.last.expand(planes, -1, -1), values[:, -reach:], out=result[:, -ends:])


def _along(line: Tensor, bands: Bands, result: Tensor, slack: int, count: int) -> None:
    rows = -(-count // _BLOCK)
    target = result.as_strided((rows, _BLOCK), (_BLOCK, 1), slack)
    for start in range(0, bands.inner.shape[1], _BLOCK):
        piece = bands.inner[:, start : start + _BLOCK].mT
        source = line.as_strided((rows, len(piece)), (_BLOCK, 1), slack - bands.before + start)
        target.addmm_(source, piece, beta=1 if start else 0)


def _ends(line: Tensor, bands: Bands, result: Tensor, width: int) -> None:
    source, target = line.view(-1, width), result.view(-1, width)
    ends, reach = bands.first.shape
    torch.mm(source[:, :reach], bands.first.mT, out=target[:, :ends])
    torch.mm(source[:, -reach:], bands.last.mT, out=target[:, -ends:])
