"""Bytes that the kernels and the torch code must move between a device's memory and its caches."""

from percep.kernels.gpu.tiling import Tiling, of_products
from percep.windows import Window


def product_bytes(window: Window, height: int, width: int, itemsize: int = 4) -> int:
    """What `product_kernel` loads and stores for one plane, halos included, each value once per tile; no scratch."""
    tiling = of_products(window, height, width, itemsize)
    down = _axis(window, height, tiling, 0)
    across = _axis(window, width, tiling, 1)
    total = 0
    for tile_rows, window_rows, pixel_rows in down:
        for tile_columns, window_columns, pixel_columns in across:
            total += pixel_rows * pixel_columns + window_rows * window_columns + 2 * tile_rows * tile_columns
    return itemsize * total


def product_bytes_torch(window: Window) -> int:
    """What the torch code of the same product moves per pixel of a large float32 image at stride 1, fused nowhere.

    Two passes of a mean, after padding, and two of an adjoint; each of the first tap reads and writes a pixel, each
    of the others reads two and writes one.
    """
    passes = 4 * (2 + 3 * (window.size - 1)) + 2 * 2  # an adjoint's pass begins by writing zeros and adds every tap
    padding, multiplication, diagonal, inner_product = 2, 3, 4, 3
    return 4 * (passes + padding + multiplication + diagonal + inner_product)


def _axis(window: Window, length: int, tiling: Tiling, axis: int) -> list[tuple[int, int, int]]:
    """Pixels that are written, windows that are met, and pixels that are read, of every tile along an axis."""
    before = (window.size - 1) // 2 if window.padding == "reflect" else 0
    further = 1 - window.size % 2 if window.padding == "reflect" else 0
    count = window.grid(length, length)[0]
    parts = []
    for start in range(0, length, tiling.tile[axis]):
        stop = min(start + tiling.tile[axis], length)
        first = -(-max(start - (window.size - 1 - before), 0) // window.stride)
        met = [
            i
            for i in range(first, min(count, first + tiling.block[axis]))
            if axis == 0 or i * window.stride - before - further <= start + tiling.tile[axis] - 1
        ]
        if not met:
            parts.append((stop - start, 0, stop - start))
            continue
        low = max(met[0] * window.stride - before - further, 0)
        seen = met[-1] * window.stride + window.size - 1 - before
        # Across, a block of pixels is read whole.
        high = min(max(seen if axis == 0 else low + tiling.block[axis] - 1, stop - 1), length - 1)
        parts.append((stop - start, len(met), high - low + 1))
    return parts
