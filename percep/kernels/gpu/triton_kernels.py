"""The Triton kernels: what a program does with a tile of a plane. `percep.kernels.gpu.launch` launches them.

A one-dimensional pass of a window is a banded matrix, mirrored borders included: the weight of pixel p in window i is
`taps[p - s]` plus that of its mirror images, `taps[-p - s]` and `taps[2 (n - 1) - p - s]`, where the window starts at
`s = STRIDE i - BEFORE`. `_pass` multiplies by it or by its transpose, so that borders, strides and even sizes are no
cases of their own. Two passes make a local mean or an adjoint, four the system's product. With `TAP_BY_TAP` a pass
looks mirrored pixels up where they are mirrored from, so that every element of a block has the same weight, and border
tiles of an adjoint take up to two further sums.

Between passes a block goes through a scratch of `ROWS x COLUMNS` values that belongs to the program: Triton does not
let a program address its shared memory. A scratch is rewritten for every tile of a program and stays in the caches. The
barriers order its writes before other threads' reads, and these before the next writes.

A program serves every `programs`-th tile. What lies outside an image is never read or written; offsets of planes
are 64-bit. `sizes` are `tiling.Sizes`, `C` are `tiling.Constants`, other named tuples those of
`percep.kernels.arguments`.
"""

import triton
import triton.language as tl


@triton.jit
def _tap(taps, index, C: tl.constexpr):
    return tl.load(taps + index, mask=(index >= 0) & (index < C.SIZE), other=0.0)


@triton.jit
def _weights(taps, window, pixel, pixels, C: tl.constexpr):
    """The weights of pixels in windows, mirror images included."""
    start = window * C.STRIDE - C.BEFORE
    weights = _tap(taps, pixel - start, C)
    if C.MIRRORED:
        weights += tl.where(pixel >= 1, _tap(taps, -pixel - start, C), 0.0)
        weights += tl.where(pixel <= pixels - 2, _tap(taps, 2 * (pixels - 1) - pixel - start, C), 0.0)
    return weights


@triton.jit
def _first_window(pixel, C: tl.constexpr):
    """The first window that sees a pixel or one after it."""
    return (tl.maximum(pixel - (C.SIZE - 1 - C.BEFORE), 0) + C.STRIDE - 1) // C.STRIDE


@triton.jit
def _first_pixel(window, C: tl.constexpr):
    """The first pixel that a window or one after it sees, or its mirror image."""
    # A window of even size, and so its mirror image, reaches one further after its centre than before.
    further: tl.constexpr = 1 - C.SIZE % 2 if C.MIRRORED else 0
    return tl.maximum(window * C.STRIDE - C.BEFORE - further, 0)


@triton.jit
def _meets(window, pixel, C: tl.constexpr):
    """Whether windows see a pixel or one before it."""
    further: tl.constexpr = 1 - C.SIZE % 2 if C.MIRRORED else 0
    return window * C.STRIDE - C.BEFORE - further <= pixel


@triton.jit
def _seen_pixel(window, shift, pixels, C: tl.constexpr):
    """The pixel under a tap of windows, where it lies beyond a border its mirror image."""
    pixel = window * C.STRIDE - C.BEFORE + shift
    if C.MIRRORED:
        pixel = tl.abs(pixel)
        pixel = tl.where(pixel < pixels, pixel, 2 * (pixels - 1) - pixel)
    return pixel


@triton.jit
def _line(pointer, place, seen, across, across_inside, AXIS: tl.constexpr):
    """What lies at places along an axis and at all offsets of the other."""
    if AXIS == 0:
        mask = seen[:, None] & across_inside[None, :]
        values = tl.load(pointer + place[:, None] + across[None, :], mask=mask, other=0.0)
    else:
        mask = across_inside[:, None] & seen[None, :]
        values = tl.load(pointer + across[:, None] + place[None, :], mask=mask, other=0.0)
    return values


@triton.jit
def _pass_tap_by_tap(source, own, across, lengths, taps, FORWARD: tl.constexpr, AXIS: tl.constexpr, C: tl.constexpr):
    """`_pass` with one weight for a whole block at a time; what lies beyond a border is taken from its mirror image."""
    pointer, step, origin = source
    own, own_inside, first = own
    across, across_inside = across
    windows, pixels = lengths
    total = tl.zeros((C.ROWS, C.COLUMNS), dtype=pointer.dtype.element_ty)
    if FORWARD:
        for shift in range(C.SIZE):
            place = (_seen_pixel(own, shift, pixels, C) - origin) * step
            total += tl.load(taps + shift) * _line(pointer, place, own_inside, across, across_inside, AXIS)
    else:
        for image in tl.static_range(3 if C.MIRRORED else 1):
            virtual, met, inside = own, True, own_inside
            if image == 1:
                virtual, met, inside = -own, first <= C.BEFORE, own_inside & (own >= 1)
            elif image == 2:
                block: tl.constexpr = C.ROWS if AXIS == 0 else C.COLUMNS
                virtual, met = 2 * (pixels - 1) - own, first + block + C.SIZE > pixels
                inside = own_inside & (own <= pixels - 2)
            if met:
                for shift in range(C.SIZE):
                    start = virtual + C.BEFORE - shift
                    window = start // C.STRIDE
                    seen = inside & (start >= 0) & (window * C.STRIDE == start) & (window < windows)
                    values = _line(pointer, (window - origin) * step, seen, across, across_inside, AXIS)
                    total += tl.load(taps + shift) * values
    return total


@triton.jit
def _pass(source, own, across, lengths, taps, FORWARD: tl.constexpr, AXIS: tl.constexpr, C: tl.constexpr):
    """One pass along `AXIS`, `(ROWS, COLUMNS)`: of windows from pixels if `FORWARD`, of pixels from windows if not.

    Args:
        source: a pointer, a step and an origin: element i along the axis lies at `step * (i - origin)`.
        own: the result's elements along the axis, whether each is needed, and the first.
        across: the offsets of the other coordinate, and whether each is needed.
        lengths: windows and pixels along the axis.
        taps: of the window.
        FORWARD, AXIS, C: as above.
    """
    if C.TAP_BY_TAP:
        total = _pass_tap_by_tap(source, own, across, lengths, taps, FORWARD, AXIS, C)
    else:
        total = _pass_by_weights(source, own, across, lengths, taps, FORWARD, AXIS, C)
    return total


@triton.jit
def _pass_by_weights(source, own, across, lengths, taps, FORWARD: tl.constexpr, AXIS: tl.constexpr, C: tl.constexpr):
    """`_pass` with a weight for every element, computed from the taps, mirror images included."""
    pointer, step, origin = source
    own, own_inside, _ = own
    across, across_inside = across
    windows, pixels = lengths
    if FORWARD:
        lowest = _first_pixel(own, C)
    else:
        lowest = _first_window(own, C)
    total = tl.zeros((C.ROWS, C.COLUMNS), dtype=pointer.dtype.element_ty)
    count: tl.constexpr = C.PIXELS_SEEN if FORWARD else C.WINDOWS_SEEN
    for shift in range(count):
        other = lowest + shift
        if FORWARD:
            weights = _weights(taps, own, other, pixels, C)
            seen = own_inside & (other < pixels) & (weights > 0)
        else:
            weights = _weights(taps, other, own, pixels, C)
            seen = own_inside & (other < windows) & (weights > 0)
        values = _line(pointer, (other - origin) * step, seen, across, across_inside, AXIS)
        if AXIS == 0:
            total += weights[:, None] * values
        else:
            total += weights[None, :] * values
    return total


@triton.jit
def passes_kernel(values, result, scratch, taps, sizes, FORWARD: tl.constexpr, C: tl.constexpr):
    """`A v` if `FORWARD`, `A' v` if not."""
    down, across = tl.arange(0, C.ROWS), tl.arange(0, C.COLUMNS)
    scratch += tl.program_id(0) * C.ROWS * C.COLUMNS
    here = scratch + down[:, None] * C.COLUMNS + across[None, :]
    if FORWARD:
        given_rows, given_columns, made_rows, made_columns = sizes.height, sizes.width, sizes.rows, sizes.columns
    else:
        given_rows, given_columns, made_rows, made_columns = sizes.rows, sizes.columns, sizes.height, sizes.width
    for work in range(tl.program_id(0), sizes.planes * sizes.tiles, sizes.programs):
        plane, tile = tl.cast(work // sizes.tiles, tl.int64), work % sizes.tiles
        top, left = tile // sizes.tiles_across * C.TILE_ROWS, tile % sizes.tiles_across * C.TILE_COLUMNS
        row, column = top + down, left + across
        row_inside = (down < C.TILE_ROWS) & (row < made_rows)
        column_inside = (across < C.TILE_COLUMNS) & (column < made_columns)
        if FORWARD:
            first = _first_pixel(left, C)
        else:
            first = _first_window(left, C)
        other = first + across
        tall = _pass(
            (values + plane * given_rows * given_columns, given_columns, 0), (row, row_inside, top),
            (other, other < given_columns), (sizes.rows, sizes.height), taps, FORWARD, 0, C,
        )  # fmt: skip
        tl.debug_barrier()
        tl.store(here, tall)
        tl.debug_barrier()
        made = _pass(
            (scratch, 1, first), (column, column_inside, left), (down * C.COLUMNS, row_inside),
            (sizes.columns, sizes.width), taps, FORWARD, 1, C,
        )  # fmt: skip
        place = plane * made_rows * made_columns + row[:, None] * made_columns + column[None, :]
        tl.store(result + place, made, mask=row_inside[:, None] & column_inside[None, :])


@triton.jit
def product_kernel(system, active, result, sums, scratch, taps, channels, sizes, C: tl.constexpr):
    """`M v = diagonal v + A' (inner A v)` of active images, and each tile's share of `<v, M v>`."""
    height, width, rows, columns = sizes.height, sizes.width, sizes.rows, sizes.columns
    down, across = tl.arange(0, C.ROWS), tl.arange(0, C.COLUMNS)
    block = down[:, None] * C.COLUMNS + across[None, :]
    first_scratch = scratch + tl.program_id(0) * 2 * C.ROWS * C.COLUMNS
    second_scratch = first_scratch + C.ROWS * C.COLUMNS
    for work in range(tl.program_id(0), sizes.planes * sizes.tiles, sizes.programs):
        plane, tile = tl.cast(work // sizes.tiles, tl.int64), work % sizes.tiles
        if tl.load(active + plane // channels) != 0:
            top, left = tile // sizes.tiles_across * C.TILE_ROWS, tile % sizes.tiles_across * C.TILE_COLUMNS
            first_row, first_column = _first_window(top, C), _first_window(left, C)
            window_row, window_column = first_row + down, first_column + across
            first_pixel = _first_pixel(first_column, C)
            pixel = first_pixel + across
            tall = _pass(
                (system.vector + plane * height * width, width, 0), (window_row, window_row < rows, first_row),
                (pixel, pixel < width), (rows, height), taps, True, 0, C,
            )  # fmt: skip
            tl.debug_barrier()
            tl.store(first_scratch + block, tall)
            tl.debug_barrier()
            # The others would need pixels that are not in the scratch.
            met = _meets(window_column, left + C.TILE_COLUMNS - 1, C)
            met &= window_column < columns
            mean = _pass(
                (first_scratch, 1, first_pixel), (window_column, met, first_column),
                (down * C.COLUMNS, window_row < rows), (columns, width), taps, True, 1, C,
            )  # fmt: skip
            place = plane * rows * columns + window_row[:, None] * columns + window_column[None, :]
            mask = (window_row < rows)[:, None] & met[None, :]
            tl.store(second_scratch + block, mean * tl.load(system.inner + place, mask=mask, other=0.0))
            tl.debug_barrier()
            row, column = top + down, left + across
            row_inside = (down < C.TILE_ROWS) & (row < height)
            column_inside = (across < C.TILE_COLUMNS) & (column < width)
            tall = _pass(
                (second_scratch, C.COLUMNS, first_row), (row, row_inside, top), (across, met), (rows, height), taps,
                False, 0, C,
            )  # fmt: skip
            tl.store(first_scratch + block, tall)
            tl.debug_barrier()
            adjoint = _pass(
                (first_scratch, 1, first_column), (column, column_inside, left), (down * C.COLUMNS, row_inside),
                (columns, width), taps, False, 1, C,
            )  # fmt: skip
            place = plane * height * width + row[:, None] * width + column[None, :]
            mask = row_inside[:, None] & column_inside[None, :]
            own = tl.load(system.vector + place, mask=mask, other=0.0)
            product = tl.load(system.diagonal + place, mask=mask, other=0.0) * own + adjoint
            tl.store(result + place, product, mask=mask)
            tl.store(sums + work, tl.sum(own * product))


@triton.jit
def shifted_variance(variance, covariance, k, reference_variance):
    """`var(d - k x)` from the variances of d and x and their covariance."""
    return variance - 2 * k * covariance + k * k * reference_variance


@triton.jit
def _step(violation, last, eta, momentum):
    most = tl.full((), 0.2, violation.dtype)  # a literal would be rounded to float32
    kept = tl.minimum(tl.maximum(tl.where(last * violation > 0, last, 0.0), -1.0), most)
    return tl.minimum(tl.maximum(eta * violation + momentum * kept, -3.0), 3.0)


@triton.jit
def _log_ratio(squared, limit, TINY: tl.constexpr):
    return tl.minimum(tl.maximum(tl.log(tl.maximum(squared / limit, TINY)), -10.0), 10.0)


@triton.jit
def _multiply(constraints, squares, place, mask, eta, momentum, TINY: tl.constexpr):
    """Stores the new multipliers of constraints that are at `squares`, and the steps of their logarithms."""
    radius = tl.load(constraints.radius + place, mask=mask, other=1.0)
    violation = _log_ratio(squares, radius * radius, TINY)
    step = _step(violation, tl.load(constraints.last_step + place, mask=mask, other=0.0), eta, momentum)
    tl.store(constraints.new_step + place, step, mask=mask)
    multiplier = tl.load(constraints.multiplier + place, mask=mask, other=0.0)
    tl.store(constraints.new_multiplier + place, multiplier * tl.exp(step), mask=mask)


@triton.jit
def update_kernel(
    given,
    sums,
    scratch,
    taps,
    channels,
    sizes,
    FLOOR: tl.constexpr,
    MEAN: tl.constexpr,
    TINY: tl.constexpr,
    C: tl.constexpr,
):
    """The local moments of d, and what follows from them for the multipliers.

    With `FLOOR`, the floor's multipliers and their steps; with `MEAN`, each tile's share of the ellipsoid's squared
    norm.
    """
    images, floor, ellipsoid = given.images, given.floor, given.ellipsoid
    height, width, rows, columns = sizes.height, sizes.width, sizes.rows, sizes.columns
    down, across = tl.arange(0, C.ROWS), tl.arange(0, C.COLUMNS)
    block = down[:, None] * C.COLUMNS + across[None, :]
    scratch += tl.program_id(0) * 3 * C.ROWS * C.COLUMNS
    for work in range(tl.program_id(0), sizes.planes * sizes.tiles, sizes.programs):
        plane, tile = tl.cast(work // sizes.tiles, tl.int64), work % sizes.tiles
        image = plane // channels
        top, left = tile // sizes.tiles_across * C.TILE_ROWS, tile % sizes.tiles_across * C.TILE_COLUMNS
        row, column = top + down, left + across
        row_inside = (down < C.TILE_ROWS) & (row < rows)
        column_inside = (across < C.TILE_COLUMNS) & (column < columns)
        first = _first_pixel(left, C)
        pixel = first + across
        pixel_inside = pixel < width
        # As in `_pass`, of d, of its square and of its product with the reference at once.
        lowest = _first_pixel(row, C)
        first_moment = tl.zeros((C.ROWS, C.COLUMNS), dtype=images.delta.dtype.element_ty)
        second_moment = tl.zeros((C.ROWS, C.COLUMNS), dtype=images.delta.dtype.element_ty)
        mixed_moment = tl.zeros((C.ROWS, C.COLUMNS), dtype=images.delta.dtype.element_ty)
        if C.TAP_BY_TAP:
            for shift in range(C.SIZE):
                mask = row_inside[:, None] & pixel_inside[None, :]
                other = _seen_pixel(row, shift, height, C)
                place = plane * height * width + other[:, None] * width + pixel[None, :]
                values = tl.load(images.delta + place, mask=mask, other=0.0)
                first_moment += tl.load(taps + shift) * values
                second_moment += tl.load(taps + shift) * (values * values)
                if FLOOR:
                    mixed_moment += tl.load(taps + shift) * (
                        values * tl.load(images.reference + place, mask=mask, other=0.0)
                    )
        else:
            for shift in range(C.PIXELS_SEEN):
                other = lowest + shift
                weights = _weights(taps, row, other, height, C)
                mask = (row_inside & (other < height) & (weights > 0))[:, None] & pixel_inside[None, :]
                place = plane * height * width + other[:, None] * width + pixel[None, :]
                values = tl.load(images.delta + place, mask=mask, other=0.0)
                first_moment += weights[:, None] * values
                second_moment += weights[:, None] * (values * values)
                if FLOOR:
                    mixed_moment += weights[:, None] * (
                        values * tl.load(images.reference + place, mask=mask, other=0.0)
                    )
        tl.debug_barrier()
        tl.store(scratch + block, first_moment)
        tl.store(scratch + C.ROWS * C.COLUMNS + block, second_moment)
        if FLOOR:
            tl.store(scratch + 2 * C.ROWS * C.COLUMNS + block, mixed_moment)
        tl.debug_barrier()
        own, other_rows, lengths = (column, column_inside, left), (down * C.COLUMNS, row_inside), (columns, width)
        mean = _pass((scratch, 1, first), own, other_rows, lengths, taps, True, 1, C)
        second = _pass((scratch + C.ROWS * C.COLUMNS, 1, first), own, other_rows, lengths, taps, True, 1, C)
        variance = second - mean * mean
        mask = row_inside[:, None] & column_inside[None, :]
        window = row[:, None] * columns + column[None, :]
        place = plane * rows * columns + window
        if FLOOR:
            mixed = _pass((scratch + 2 * C.ROWS * C.COLUMNS, 1, first), own, other_rows, lengths, taps, True, 1, C)
            mean_x = tl.load(images.reference_mean + place, mask=mask, other=0.0)
            k_place = image * floor.k_by_image + (plane % channels * rows * columns + window) * floor.k_by_window
            k = tl.load(floor.contrast.k + k_place, mask=mask, other=0.0)
            variance_x = tl.load(images.reference_variance + place, mask=mask, other=0.0)
            shifted = shifted_variance(variance, mixed - mean * mean_x, k, variance_x)
            eta, momentum = tl.load(given.step_sizes.eta + image), tl.load(given.step_sizes.momentum + image)
            _multiply(floor.contrast, shifted, place, mask, eta, momentum, TINY)
            shift_mean = mean - tl.load(floor.luminance.k + k_place, mask=mask, other=0.0) * mean_x
            _multiply(floor.luminance, shift_mean * shift_mean, place, mask, eta, momentum, TINY)
        if MEAN:
            norm = tl.load(ellipsoid.luminance + place, mask=mask, other=0.0) * (mean * mean)
            norm += tl.load(ellipsoid.contrast + place, mask=mask, other=0.0) * tl.maximum(variance, 0.0)
            tl.store(sums + work, tl.sum(norm))
