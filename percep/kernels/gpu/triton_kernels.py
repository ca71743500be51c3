"""The Triton kernels: what a program does with a tile of a plane. Their launchers are in `gpu`.

A one-dimensional pass of a window is a banded matrix, mirrored borders included: the weight of pixel p in window i is
`taps[p - s]` plus that of its mirror images, `taps[-p - s]` and `taps[2 (n - 1) - p - s]`, where the window starts at
`s = STRIDE i - BEFORE`. `_pass` multiplies by it or by its transpose, so that borders, strides and even sizes are no
cases of their own. Two passes make a local mean or an adjoint, four the system's product.

Between passes a block goes through a scratch of `ROWS x COLUMNS` values that belongs to the program: Triton does not
let a program address its shared memory. A scratch is rewritten for every tile of a program and stays in the caches. The
barriers order its writes before other threads' reads, and these before the next writes.

A program serves every `programs`-th tile. What lies outside an image is never read or written; offsets of planes
are 64-bit.
"""

import triton
import triton.language as tl


@triton.jit
def _tap(taps, index, SIZE: tl.constexpr):
    return tl.load(taps + index, mask=(index >= 0) & (index < SIZE), other=0.0)


@triton.jit
def _weights(
    taps, window, pixel, pixels, STRIDE: tl.constexpr, BEFORE: tl.constexpr, SIZE: tl.constexpr, MIRRORED: tl.constexpr
):
    """The weights of pixels in windows, mirror images included."""
    start = window * STRIDE - BEFORE
    weights = _tap(taps, pixel - start, SIZE)
    if MIRRORED:
        weights += tl.where(pixel >= 1, _tap(taps, -pixel - start, SIZE), 0.0)
        weights += tl.where(pixel <= pixels - 2, _tap(taps, 2 * (pixels - 1) - pixel - start, SIZE), 0.0)
    return weights


@triton.jit
def _first_window(pixel, STRIDE: tl.constexpr, BEFORE: tl.constexpr, SIZE: tl.constexpr):
    """The first window that sees a pixel or one after it."""
    return (tl.maximum(pixel - (SIZE - 1 - BEFORE), 0) + STRIDE - 1) // STRIDE


@triton.jit
def _first_pixel(window, STRIDE: tl.constexpr, BEFORE: tl.constexpr, SIZE: tl.constexpr, MIRRORED: tl.constexpr):
    """The first pixel that a window or one after it sees, or its mirror image."""
    # A window of even size, and so its mirror image, reaches one further after its centre than before.
    further: tl.constexpr = 1 - SIZE % 2 if MIRRORED else 0
    return tl.maximum(window * STRIDE - BEFORE - further, 0)


@triton.jit
def _meets(window, pixel, STRIDE: tl.constexpr, BEFORE: tl.constexpr, SIZE: tl.constexpr, MIRRORED: tl.constexpr):
    """Whether windows see a pixel or one before it."""
    further: tl.constexpr = 1 - SIZE % 2 if MIRRORED else 0
    return window * STRIDE - BEFORE - further <= pixel


@triton.jit
def _pass(
    source,
    step,
    origin,
    own,
    own_inside,
    across,
    across_inside,
    windows,
    pixels,
    taps,
    FORWARD: tl.constexpr,
    AXIS: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
    BEFORE: tl.constexpr,
    SIZE: tl.constexpr,
    MIRRORED: tl.constexpr,
):
    """One pass along `AXIS`, `(ROWS, COLUMNS)`: of windows from pixels if `FORWARD`, of pixels from windows if not.

    What the result's element at `own` sees lies at `step * (index - origin)`, the other coordinate at the offset
    `across`. At most `COUNT` values are seen.
    """
    if FORWARD:
        lowest = _first_pixel(own, STRIDE, BEFORE, SIZE, MIRRORED)
    else:
        lowest = _first_window(own, STRIDE, BEFORE, SIZE)
    total = tl.zeros((ROWS, COLUMNS), dtype=source.dtype.element_ty)
    for shift in range(COUNT):
        other = lowest + shift
        if FORWARD:
            weights = _weights(taps, own, other, pixels, STRIDE, BEFORE, SIZE, MIRRORED)
            seen = own_inside & (other < pixels) & (weights > 0)
        else:
            weights = _weights(taps, other, own, pixels, STRIDE, BEFORE, SIZE, MIRRORED)
            seen = own_inside & (other < windows) & (weights > 0)
        place = (other - origin) * step
        if AXIS == 0:
            mask = seen[:, None] & across_inside[None, :]
            total += weights[:, None] * tl.load(source + place[:, None] + across[None, :], mask=mask, other=0.0)
        else:
            mask = across_inside[:, None] & seen[None, :]
            total += weights[None, :] * tl.load(source + across[:, None] + place[None, :], mask=mask, other=0.0)
    return total


@triton.jit
def passes_kernel(
    values,
    result,
    scratch,
    taps,
    planes,
    height,
    width,
    rows,
    columns,
    tiles_across,
    tiles,
    programs,
    FORWARD: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIXELS_SEEN: tl.constexpr,
    WINDOWS_SEEN: tl.constexpr,
    STRIDE: tl.constexpr,
    BEFORE: tl.constexpr,
    SIZE: tl.constexpr,
    MIRRORED: tl.constexpr,
):
    """`A v` if `FORWARD`, `A' v` if not."""
    seen: tl.constexpr = PIXELS_SEEN if FORWARD else WINDOWS_SEEN
    down, across = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    scratch += tl.program_id(0) * ROWS * COLUMNS
    here = scratch + down[:, None] * COLUMNS + across[None, :]
    if FORWARD:
        given_rows, given_columns, made_rows, made_columns = height, width, rows, columns
    else:
        given_rows, given_columns, made_rows, made_columns = rows, columns, height, width
    for work in range(tl.program_id(0), planes * tiles, programs):
        plane, tile = tl.cast(work // tiles, tl.int64), work % tiles
        top, left = tile // tiles_across * TILE_ROWS, tile % tiles_across * TILE_COLUMNS
        row, column = top + down, left + across
        row_inside = (down < TILE_ROWS) & (row < made_rows)
        column_inside = (across < TILE_COLUMNS) & (column < made_columns)
        if FORWARD:
            first = _first_pixel(left, STRIDE, BEFORE, SIZE, MIRRORED)
        else:
            first = _first_window(left, STRIDE, BEFORE, SIZE)
        other = first + across
        tall = _pass(
            values + plane * given_rows * given_columns, given_columns, 0, row, row_inside, other,
            other < given_columns, rows, height, taps, FORWARD, 0, seen, ROWS, COLUMNS, STRIDE, BEFORE, SIZE, MIRRORED,
        )  # fmt: skip
        tl.debug_barrier()
        tl.store(here, tall)
        tl.debug_barrier()
        made = _pass(
            scratch, 1, first, column, column_inside, down * COLUMNS, row_inside, columns, width, taps,
            FORWARD, 1, seen, ROWS, COLUMNS, STRIDE, BEFORE, SIZE, MIRRORED,
        )  # fmt: skip
        place = plane * made_rows * made_columns + row[:, None] * made_columns + column[None, :]
        tl.store(result + place, made, mask=row_inside[:, None] & column_inside[None, :])


@triton.jit
def product_kernel(
    values,
    diagonal,
    inner,
    result,
    partial,
    active,
    scratch,
    taps,
    channels,
    planes,
    height,
    width,
    rows,
    columns,
    tiles_across,
    tiles,
    programs,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIXELS_SEEN: tl.constexpr,
    WINDOWS_SEEN: tl.constexpr,
    STRIDE: tl.constexpr,
    BEFORE: tl.constexpr,
    SIZE: tl.constexpr,
    MIRRORED: tl.constexpr,
):
    """`M v = diagonal v + A' (inner A v)` of active images, and each tile's share of `<v, M v>`."""
    down, across = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    block = down[:, None] * COLUMNS + across[None, :]
    first_scratch = scratch + tl.program_id(0) * 2 * ROWS * COLUMNS
    second_scratch = first_scratch + ROWS * COLUMNS
    for work in range(tl.program_id(0), planes * tiles, programs):
        plane, tile = tl.cast(work // tiles, tl.int64), work % tiles
        if tl.load(active + plane // channels) != 0:
            top, left = tile // tiles_across * TILE_ROWS, tile % tiles_across * TILE_COLUMNS
            first_row = _first_window(top, STRIDE, BEFORE, SIZE)
            first_column = _first_window(left, STRIDE, BEFORE, SIZE)
            window_row, window_column = first_row + down, first_column + across
            first_pixel = _first_pixel(first_column, STRIDE, BEFORE, SIZE, MIRRORED)
            pixel = first_pixel + across
            tall = _pass(
                values + plane * height * width, width, 0, window_row, window_row < rows, pixel, pixel < width,
                rows, height, taps,
                True, 0, PIXELS_SEEN, ROWS, COLUMNS, STRIDE, BEFORE, SIZE, MIRRORED,
            )  # fmt: skip
            tl.debug_barrier()
            tl.store(first_scratch + block, tall)
            tl.debug_barrier()
            # The others would need pixels that are not in the scratch.
            met = _meets(window_column, left + TILE_COLUMNS - 1, STRIDE, BEFORE, SIZE, MIRRORED)
            met &= window_column < columns
            mean = _pass(
                first_scratch, 1, first_pixel, window_column, met, down * COLUMNS, window_row < rows,
                columns, width, taps,
                True, 1, PIXELS_SEEN, ROWS, COLUMNS, STRIDE, BEFORE, SIZE, MIRRORED,
            )  # fmt: skip
            place = plane * rows * columns + window_row[:, None] * columns + window_column[None, :]
            mask = (window_row < rows)[:, None] & met[None, :]
            tl.store(second_scratch + block, mean * tl.load(inner + place, mask=mask, other=0.0))
            tl.debug_barrier()
            row, column = top + down, left + across
            row_inside, column_inside = (down < TILE_ROWS) & (row < height), (across < TILE_COLUMNS) & (column < width)
            tall = _pass(
                second_scratch, COLUMNS, first_row, row, row_inside, across, met, rows, height, taps,
                False, 0, WINDOWS_SEEN, ROWS, COLUMNS, STRIDE, BEFORE, SIZE, MIRRORED,
            )  # fmt: skip
            tl.store(first_scratch + block, tall)
            tl.debug_barrier()
            spread = _pass(
                first_scratch, 1, first_column, column, column_inside, down * COLUMNS, row_inside, columns, width, taps,
                False, 1, WINDOWS_SEEN, ROWS, COLUMNS, STRIDE, BEFORE, SIZE, MIRRORED,
            )  # fmt: skip
            place = plane * height * width + row[:, None] * width + column[None, :]
            mask = row_inside[:, None] & column_inside[None, :]
            own = tl.load(values + place, mask=mask, other=0.0)
            product = tl.load(diagonal + place, mask=mask, other=0.0) * own + spread
            tl.store(result + place, product, mask=mask)
            tl.store(partial + work, tl.sum(own * product))


@triton.jit
def _stepped(violation, last, eta, momentum):
    most = tl.full((), 0.2, violation.dtype)  # a literal would be rounded to float32
    kept = tl.minimum(tl.maximum(tl.where(last * violation > 0, last, 0.0), -1.0), most)
    return tl.minimum(tl.maximum(eta * violation + momentum * kept, -3.0), 3.0)


@triton.jit
def _log_ratio(squared, limit, TINY: tl.constexpr):
    return tl.minimum(tl.maximum(tl.log(tl.maximum(squared / limit, TINY)), -10.0), 10.0)


@triton.jit
def _raise(multipliers, last, raised, steps, violation, place, mask, eta, momentum):
    """Stores multipliers moved by a step, and the step."""
    step = _stepped(violation, tl.load(last + place, mask=mask, other=0.0), eta, momentum)
    tl.store(steps + place, step, mask=mask)
    tl.store(raised + place, tl.load(multipliers + place, mask=mask, other=0.0) * tl.exp(step), mask=mask)


@triton.jit
def update_kernel(
    delta,
    reference,
    mean_reference,
    variance_reference,
    k_luminance,
    k_contrast,
    k_image,
    k_window,
    radius_luminance,
    radius_contrast,
    luminance,
    contrast,
    last_luminance,
    last_contrast,
    raised_luminance,
    raised_contrast,
    step_luminance,
    step_contrast,
    weight_luminance,
    weight_contrast,
    spent,
    eta,
    momentum,
    scratch,
    taps,
    channels,
    planes,
    height,
    width,
    rows,
    columns,
    tiles_across,
    tiles,
    programs,
    FLOOR: tl.constexpr,
    MEAN: tl.constexpr,
    TINY: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIXELS_SEEN: tl.constexpr,
    WINDOWS_SEEN: tl.constexpr,
    STRIDE: tl.constexpr,
    BEFORE: tl.constexpr,
    SIZE: tl.constexpr,
    MIRRORED: tl.constexpr,
):
    """The local moments of d, and what they make of the multipliers.

    With `FLOOR`, the floor's multipliers and their steps; with `MEAN`, each tile's share of the ellipsoid's norm. The k
    of window i of an image lies at `k_image * image + k_window * i`.
    """
    down, across = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    block = down[:, None] * COLUMNS + across[None, :]
    scratch += tl.program_id(0) * 3 * ROWS * COLUMNS
    for work in range(tl.program_id(0), planes * tiles, programs):
        plane, tile = tl.cast(work // tiles, tl.int64), work % tiles
        image = plane // channels
        top, left = tile // tiles_across * TILE_ROWS, tile % tiles_across * TILE_COLUMNS
        row, column = top + down, left + across
        row_inside, column_inside = (down < TILE_ROWS) & (row < rows), (across < TILE_COLUMNS) & (column < columns)
        first = _first_pixel(left, STRIDE, BEFORE, SIZE, MIRRORED)
        pixel = first + across
        pixel_inside = pixel < width
        # As in `_pass`, of d, of its square and of its product with the reference at once.
        lowest = _first_pixel(row, STRIDE, BEFORE, SIZE, MIRRORED)
        first_moment = tl.zeros((ROWS, COLUMNS), dtype=delta.dtype.element_ty)
        second_moment = tl.zeros((ROWS, COLUMNS), dtype=delta.dtype.element_ty)
        mixed_moment = tl.zeros((ROWS, COLUMNS), dtype=delta.dtype.element_ty)
        for shift in range(PIXELS_SEEN):
            other = lowest + shift
            weights = _weights(taps, row, other, height, STRIDE, BEFORE, SIZE, MIRRORED)
            mask = (row_inside & (other < height) & (weights > 0))[:, None] & pixel_inside[None, :]
            place = plane * height * width + other[:, None] * width + pixel[None, :]
            values = tl.load(delta + place, mask=mask, other=0.0)
            first_moment += weights[:, None] * values
            second_moment += weights[:, None] * (values * values)
            if FLOOR:
                mixed_moment += weights[:, None] * (values * tl.load(reference + place, mask=mask, other=0.0))
        tl.debug_barrier()
        tl.store(scratch + block, first_moment)
        tl.store(scratch + ROWS * COLUMNS + block, second_moment)
        if FLOOR:
            tl.store(scratch + 2 * ROWS * COLUMNS + block, mixed_moment)
        tl.debug_barrier()
        mean = _pass(
            scratch, 1, first, column, column_inside, down * COLUMNS, row_inside, columns, width, taps,
            True, 1, PIXELS_SEEN, ROWS, COLUMNS, STRIDE, BEFORE, SIZE, MIRRORED,
        )  # fmt: skip
        second = _pass(
            scratch + ROWS * COLUMNS, 1, first, column, column_inside, down * COLUMNS, row_inside, columns, width, taps,
            True, 1, PIXELS_SEEN, ROWS, COLUMNS, STRIDE, BEFORE, SIZE, MIRRORED,
        )  # fmt: skip
        spread = second - mean * mean
        mask = row_inside[:, None] & column_inside[None, :]
        window = row[:, None] * columns + column[None, :]
        place = plane * rows * columns + window
        if FLOOR:
            mixed = _pass(
                scratch + 2 * ROWS * COLUMNS, 1, first, column, column_inside, down * COLUMNS, row_inside,
                columns, width, taps,
                True, 1, PIXELS_SEEN, ROWS, COLUMNS, STRIDE, BEFORE, SIZE, MIRRORED,
            )  # fmt: skip
            mean_x = tl.load(mean_reference + place, mask=mask, other=0.0)
            k_place = image * k_image + (plane % channels * rows * columns + window) * k_window
            k = tl.load(k_contrast + k_place, mask=mask, other=0.0)
            moved = spread - 2 * k * (mixed - mean * mean_x)
            moved += k * k * tl.load(variance_reference + place, mask=mask, other=0.0)
            radius = tl.load(radius_contrast + place, mask=mask, other=1.0)
            violation = _log_ratio(moved, radius * radius, TINY)
            _raise(
                contrast, last_contrast, raised_contrast, step_contrast, violation, place, mask,
                tl.load(eta + image), tl.load(momentum + image),
            )  # fmt: skip
            shift_mean = mean - tl.load(k_luminance + k_place, mask=mask, other=0.0) * mean_x
            radius = tl.load(radius_luminance + place, mask=mask, other=1.0)
            violation = _log_ratio(shift_mean * shift_mean, radius * radius, TINY)
            _raise(
                luminance, last_luminance, raised_luminance, step_luminance, violation, place, mask,
                tl.load(eta + image), tl.load(momentum + image),
            )  # fmt: skip
        if MEAN:
            norm = tl.load(weight_luminance + place, mask=mask, other=0.0) * (mean * mean)
            norm += tl.load(weight_contrast + place, mask=mask, other=0.0) * tl.maximum(spread, 0.0)
            tl.store(spent + work, tl.sum(norm))
