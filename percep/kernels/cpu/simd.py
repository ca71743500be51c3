"""Vectors of float32 for Numba's kernels, and the local means that are made of them.

What LLVM makes of plain loops over a line reads it once for every tap, and a vector that lies in two cache lines takes
two reads. So half of what a window sees across is shifted together from vectors that are there already, and of what
several windows see down everything is read once.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.registry import cpu_target
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, register_model

LANES = 16 if "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2].split(",") else 8
"""float32 in a vector: a register of AVX-512 or of AVX, or two of NEON."""
ROWS = 4
"""Rows that are averaged at a time."""


class Vector(types.Type):
    """The type of `LANES` float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


_VECTOR = Vector()
_FLOAT, _INT, _BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
_BIAS, _SHIFT, _FRACTION, _BITS_OF_ONE = (
    ir.Constant(_INTS, [bits] * LANES) for bits in (127, 23, 0x7FFFFF, 0x3F800000)
)


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, of: types.Type) -> None:
        super().__init__(manager, of, _FLOATS)


def _operator(which: Any, emitted: str) -> None:
    @infer_global(which)
    class _Typed(ConcreteTemplate):
        cases: ClassVar = [signature(_VECTOR, _VECTOR, _VECTOR)]

    @lower_builtin(which, Vector, Vector)
    def _lowered(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return getattr(builder, emitted)(*arguments)


for _which, _emitted in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_which, _emitted)


def _address(of: Any, context: Any, builder: Any, kind: Any, floats: Any, place: Any) -> Any:
    """Where the `of` is that begins at a place of floats: those of a flat array, or those from an address on."""
    if isinstance(kind, types.Integer):
        data = builder.inttoptr(floats, _FLOAT.as_pointer())
    else:
        data = context.make_array(kind)(context, builder, floats).data
    return builder.bitcast(builder.gep(data, [place]), of.as_pointer())


def _load_after(builder: Any, address: Any, count: int) -> Any:
    """The vector that begins so many floats after an address."""
    floats = builder.bitcast(address, _FLOAT.as_pointer())
    place = builder.gep(floats, [ir.Constant(_INT, count)])
    return builder.load(builder.bitcast(place, _FLOATS.as_pointer()), align=4)


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(_INT, 0))
    zeros = ir.Constant(_INTS, [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), zeros)


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """A vector of the same number everywhere."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return _VECTOR(types.float32), emit


@intrinsic
def load(typing: Any, floats: Any, place: Any) -> Any:
    """The vector that begins at a place of a flat array, or of the floats at an address."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.load(_address(_FLOATS, context, builder, sig.args[0], *arguments), align=4)

    return _VECTOR(floats, types.int64), emit


@intrinsic
def store(typing: Any, floats: Any, place: Any, vector: Any) -> Any:
    """Writes a vector to a place of a flat array, or of the floats at an address."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _address(_FLOATS, context, builder, sig.args[0], *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(floats, types.int64, _VECTOR), emit


@intrinsic
def read(typing: Any, floats: Any, place: Any) -> Any:
    """The number at a place of the floats at an address."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.load(_address(_FLOAT, context, builder, sig.args[0], *arguments), align=4)

    return types.float32(floats, types.int64), emit


@intrinsic
def write(typing: Any, floats: Any, place: Any, number: Any) -> Any:
    """Writes a number to a place of the floats at an address."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _address(_FLOAT, context, builder, sig.args[0], *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(floats, types.int64, types.float32), emit


@intrinsic
def prefetch(typing: Any, floats: Any, place: Any) -> Any:
    """Asks for the cache line of a place of the floats at an address, which may lie outside.

    To the second-level cache: of rows that lie 4 kB apart the first level can hold eight.
    """

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        address = _address(_BYTE, context, builder, sig.args[0], *arguments)
        kind = ir.FunctionType(ir.VoidType(), [address.type, _INT, _INT, _INT])
        function = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(function, [address, *(ir.Constant(_INT, k) for k in (0, 2, 1))])  # to read, second level, data
        return context.get_dummy_value()

    return types.void(floats, types.int64), emit


def _larger(builder: Any, first: Any, second: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", first, second), first, second)


@intrinsic
def smaller(typing: Any, first: Any, second: Any) -> Any:
    """The smaller of two numbers, the second where one is NaN."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return _VECTOR(_VECTOR, _VECTOR), emit


@intrinsic
def larger(typing: Any, first: Any, second: Any) -> Any:
    """The larger of two numbers, the second where one is NaN."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return _larger(builder, *arguments)

    return _VECTOR(_VECTOR, _VECTOR), emit


@intrinsic
def where_above(typing: Any, first: Any, second: Any, taken: Any, other: Any) -> Any:
    """`taken` where the first number is above the second, `other` elsewhere."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments[:2]), *arguments[2:])

    return _VECTOR(_VECTOR, _VECTOR, _VECTOR, _VECTOR), emit


@intrinsic
def where_nan(typing: Any, vector: Any, other: Any) -> Any:
    """The vector where it is NaN, `other` elsewhere."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_unordered("uno", arguments[0], arguments[0]), *arguments)

    return _VECTOR(_VECTOR, _VECTOR), emit


@intrinsic
def exponent_and_fraction(typing: Any, vector: Any) -> Any:
    """`127 + e` and `f` in [1, 2) with `f 2^e` the number, where it is positive and normal; of 0, 0 and 1."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], _INTS)
        exponent = builder.sitofp(builder.ashr(bits, _SHIFT), _FLOATS)
        fraction = builder.bitcast(builder.or_(builder.and_(bits, _FRACTION), _BITS_OF_ONE), _FLOATS)
        return context.make_tuple(builder, sig.return_type, [exponent, fraction])

    return types.UniTuple(_VECTOR, 2)(_VECTOR), emit


@intrinsic
def power_of_two(typing: Any, vector: Any) -> Any:
    """`2^n` of integers between -126 and 127."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        biased = builder.add(builder.fptosi(arguments[0], _INTS), _BIAS)
        return builder.bitcast(builder.shl(biased, _SHIFT), _FLOATS)

    return _VECTOR(_VECTOR), emit


@intrinsic
def rounded_down(typing: Any, vector: Any) -> Any:
    """The largest integers that are not above."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{LANES}f32")
        return builder.call(function, arguments)

    return _VECTOR(_VECTOR), emit


@intrinsic
def reverse(typing: Any, vector: Any) -> Any:
    """The numbers of a vector from the last to the first."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return builder.shuffle_vector(*arguments, *arguments, ir.Constant(_INTS, list(range(LANES))[::-1]))

    return _VECTOR(_VECTOR), emit


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """The sum of a vector's numbers, by halves."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return _reduced(builder, arguments[0], builder.fadd)

    return types.float32(_VECTOR), emit


@intrinsic
def largest(typing: Any, vector: Any) -> Any:
    """The largest of a vector's numbers, none of which is NaN."""

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        return _reduced(builder, arguments[0], partial(_larger, builder))

    return types.float32(_VECTOR), emit


def _reduced(builder: Any, vector: Any, joined: Callable[[Any, Any], Any]) -> Any:
    """A vector reduced to one number: its halves are joined, then theirs, and so on."""
    count = LANES
    while count > 1:
        count //= 2
        halves = [ir.Constant(ir.VectorType(_INT, count), list(range(at, at + count))) for at in (0, count)]
        vector = joined(*(builder.shuffle_vector(vector, vector, half) for half in halves))
    return builder.extract_element(vector, ir.Constant(_INT, 0))


@intrinsic
def across(typing: Any, line: Any, place: Any, taps: Any) -> Any:
    """Means over symmetric windows along a line, of which the first has its middle at a place.

    Args:
        line: flat, with `LANES` numbers more than the windows see after them.
        place: of the middle of the first window.
        taps: a tuple of the middle one and those after it.
    """
    half = len(taps) - 1

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        address = _address(_FLOATS, context, builder, sig.args[0], *arguments[:2])
        weights = [_splat(builder, builder.extract_value(arguments[2], k)) for k in range(half + 1)]
        after = [_load_after(builder, address, LANES * k) for k in range(half // LANES + 2 if half else 1)]
        result = builder.fmul(weights[0], after[0])
        for k in range(1, half + 1):
            which, shift = divmod(k, LANES)
            shifts = ir.Constant(_INTS, list(range(shift, shift + LANES)))
            right = builder.shuffle_vector(after[which], after[which + 1], shifts)
            pair = builder.fadd(_load_after(builder, address, -k), right)
            result = builder.fadd(result, builder.fmul(weights[k], pair))
        return result

    return _VECTOR(line, types.int64, taps), emit


@intrinsic
def places(typing: Any, table: Any, row: Any, taps: Any) -> Any:
    """What `down` needs of a row of a table, as a tuple: `2 half + ROWS` numbers."""
    count = 2 * len(taps) - 2 + ROWS

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, arguments[0]).data
        begin = builder.mul(arguments[1], ir.Constant(ir.IntType(64), count))
        at = [builder.add(begin, ir.Constant(ir.IntType(64), k)) for k in range(count)]
        return context.make_tuple(builder, sig.return_type, [builder.load(builder.gep(data, [each])) for each in at])

    return types.UniTuple(types.int64, count)(table, types.int64, taps), emit


@intrinsic
def down(typing: Any, array: Any, rows: Any, place: Any, taps: Any) -> Any:
    """Means over symmetric windows down `ROWS` neighbouring rows, as a tuple of vectors.

    Args:
        array: flat.
        rows: where the rows begin that the windows see, from the top.
        place: in a row.
        taps: a tuple of the middle one and those after it.
    """
    half = len(taps) - 1

    def emit(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        seen = [
            builder.load(
                _address(
                    _FLOATS, context, builder, sig.args[0], arguments[0],
                    builder.add(builder.extract_value(arguments[1], k), arguments[2]),
                ),
                align=4,
            )
            for k in range(2 * half + ROWS)
        ]  # fmt: skip
        weights = [_splat(builder, builder.extract_value(arguments[3], k)) for k in range(half + 1)]
        results = []
        for row in range(ROWS):
            middle = row + half
            result = builder.fmul(weights[0], seen[middle])
            for k in range(1, half + 1):
                pair = builder.fadd(seen[middle - k], seen[middle + k])
                result = builder.fadd(result, builder.fmul(weights[k], pair))
            results.append(result)
        return context.make_tuple(builder, sig.return_type, results)

    return types.UniTuple(_VECTOR, ROWS)(array, rows, types.int64, taps), emit
