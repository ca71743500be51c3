"""How images are cut into tiles for a window."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from percep.kernels.geometry import Geometry

# Bytes of a block that the registers of 16 warps hold without spilling, and the length of its rows.
_BYTES, _COLUMNS = 2**15, 128
_MIN_SIDE = 8


@dataclass(frozen=True)
class Tiling:
    """Sides of what a program writes at a time, and of the blocks it holds: `(down, across)`, blocks powers of two."""

    tile: tuple[int, int]
    block: tuple[int, int]

    def count(self, height: int, width: int) -> tuple[int, int]:
        """Tiles down and across a `height x width` result."""
        return -(-height // self.tile[0]), -(-width // self.tile[1])


class Sizes(NamedTuple):
    """What a launch divides: the sides of images and of their maps of windows, and tiles shared among programs."""

    planes: int
    height: int
    width: int
    rows: int
    columns: int
    tiles_across: int
    tiles: int
    programs: int


class Constants(NamedTuple):
    """What a kernel is compiled for.

    Attributes:
        TILE_ROWS, TILE_COLUMNS: sides of a tile.
        ROWS, COLUMNS: sides of a block.
        PIXELS_SEEN, WINDOWS_SEEN: along an axis, from the first to the last.
        STRIDE: of the window.
        BEFORE: pixels that are mirrored before a line.
        SIZE: how many taps there are.
        MIRRORED: whether the padding is "reflect".
        TAP_BY_TAP: whether passes take a tap at a time, instead of computing the weight of every element.
    """

    TILE_ROWS: int
    TILE_COLUMNS: int
    ROWS: int
    COLUMNS: int
    PIXELS_SEEN: int
    WINDOWS_SEEN: int
    STRIDE: int
    BEFORE: int
    SIZE: int
    MIRRORED: bool
    TAP_BY_TAP: bool


def constants(window: Geometry, tiling: Tiling, *, tap_by_tap: bool) -> Constants:
    """Those of a window on images that are cut so."""
    seen = pixels_seen(window), windows_seen(window)
    before, _ = window.margins
    mirrored = window.padding == "reflect"
    return Constants(*tiling.tile, *tiling.block, *seen, window.stride, before, window.size, mirrored, tap_by_tap)


def pixels_seen(window: Geometry) -> int:
    """Pixels from the first to the last that a window sees or mirrors."""
    return window.size + (1 - window.size % 2 if window.padding == "reflect" else 0)


def windows_seen(window: Geometry, pixels: int = 1) -> int:
    """Most windows that see one of `pixels` in a row."""
    return (pixels + pixels_seen(window) - 2) // window.stride + 1


@lru_cache(maxsize=256)
def of_windows(window: Geometry, height: int, width: int, itemsize: int) -> Tiling:
    """For local means: blocks of windows down and of the pixels that they see across."""
    return _of_windows(window, height, width, itemsize)


@lru_cache(maxsize=256)
def of_moments(window: Geometry, height: int, width: int, itemsize: int) -> Tiling:
    """For several means at once, whose sums share the registers: lower blocks."""
    return _of_windows(window, height, width, 4 * itemsize)


def _of_windows(window: Geometry, height: int, width: int, itemsize: int) -> Tiling:
    rows, columns = window.grid(height, width)
    block = _block(rows, max(columns, width), itemsize)
    across = columns if block[1] >= width else (block[1] - pixels_seen(window)) // window.stride + 1
    return Tiling((min(rows, block[0]), min(columns, across)), block)


@lru_cache(maxsize=256)
def of_pixels(window: Geometry, height: int, width: int, itemsize: int) -> Tiling:
    """For adjoints: blocks of pixels down and of the windows that see them across."""
    rows, columns = window.grid(height, width)
    block = _block(max(rows, height), max(columns, width), itemsize)
    across = width if block[1] >= max(columns, width) else _largest(lambda tile: windows_seen(window, tile), block[1])
    return Tiling((min(height, block[0]), min(width, across)), block)


@lru_cache(maxsize=256)
def of_products(window: Geometry, height: int, width: int, itemsize: int) -> Tiling:
    """For `A' diag(b) A`: blocks of the windows that see a tile's pixels down, of all the pixels these see across."""
    rows, columns = window.grid(height, width)
    block = _block(max(rows, height), max(columns, width), itemsize)

    def seen(tile: int) -> int:
        return (windows_seen(window, tile) - 1) * window.stride + pixels_seen(window)

    down = height if block[0] >= max(rows, height) else _largest(lambda tile: windows_seen(window, tile), block[0])
    across = width if block[1] >= max(columns, width) else _largest(seen, block[1])
    return Tiling((min(height, down), min(width, across)), block)


def _block(rows: int, columns: int, itemsize: int) -> tuple[int, int]:
    """Of the size of small images, so that little of a block is idle."""
    return min(_BYTES // _COLUMNS // itemsize, _power_of_two(rows)), min(_COLUMNS, _power_of_two(columns))


def _power_of_two(count: int) -> int:
    return max(_MIN_SIDE, 1 << (count - 1).bit_length())


def _largest(needed: Callable[[int], int], block: int) -> int:
    """The largest tile that needs at most a block."""
    return max(tile for tile in range(1, block + 1) if needed(tile) <= block)
