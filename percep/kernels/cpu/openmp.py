"""Kernels by the threads of torch.

What torch computes in parallel is shared among OpenMP's threads, which then wait for more for a while, each on its
core. A thread of another kind would wait for that core, and one of Python's for the interpreter's lock as well, which
takes longer than a kernel for an image of 224 pixels. So kernels ask OpenMP for its threads, as torch does.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing import signature
from numba.extending import intrinsic

_COUNT, _INT, _POINTER = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
# What the threads of a call share, with the kernel's arguments behind it.
_FAILED, _ITEMS, _PARTS, _THREAD, _THREADS, _ARGUMENTS = range(6)


class Team(NamedTuple):
    """What works on a call.

    Attributes:
        parts: in which it is divided.
        threads: to ask for. To ask for as many as torch does is quick: otherwise some are ended and started again.
        fork, thread, num_threads: the addresses of OpenMP's `GOMP_parallel`, `omp_get_thread_num` and
            `omp_get_num_threads`, not needed for a single part.
    """

    parts: int
    threads: int
    fork: int
    thread: int
    num_threads: int


@intrinsic
def share(typing: Any, kernel: Any, arguments: Any, count: Any, team: Any) -> Any:
    """Calls `kernel(*arguments, start, stop)` for equal parts `[start, stop)` of the items `[0, count)`.

    Args:
        kernel: a compiled function of a module, which returns nothing. Closures are compiled in every process.
        arguments: a tuple, which keeps its arrays until the end; their addresses would not.
        count: of the items.
        team: a `Team`. Every call gives a part to the same thread, which has its data.

    Raises:
        MemoryError: a part failed: the kernels can fail only for want of memory.
    """
    given = (*arguments.types, types.intp, types.intp)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        _, packed, count, members = values
        parts, threads, fork, *own = cgutils.unpack_tuple(builder, members)
        work = _part(context, builder, kernel.dispatcher.get_compile_result(signature(types.void, *given)), packed.type)
        job = cgutils.alloca_once(builder, _job(packed.type))
        nothing = ir.Constant(_COUNT, 0)
        for which, value in enumerate((nothing, count, parts, *own, packed)):
            builder.store(value, _field(builder, job, which))
        data = builder.bitcast(job, _POINTER)
        with builder.if_else(builder.icmp_signed("==", parts, ir.Constant(_COUNT, 1))) as (alone, together):
            with alone:
                builder.call(work, [data])
            with together:
                kind = ir.FunctionType(ir.VoidType(), [work.type, _POINTER, _INT, _INT]).as_pointer()
                flags = ir.Constant(_INT, 0)
                builder.call(builder.inttoptr(fork, kind), [work, data, builder.trunc(threads, _INT), flags])
        failed = builder.load(_field(builder, job, _FAILED))
        with builder.if_then(builder.icmp_signed("!=", failed, nothing), likely=False):
            context.call_conv.return_user_exc(builder, MemoryError, ("a part of a kernel failed, for want of memory",))
        return context.get_dummy_value()

    return types.void(kernel, arguments, types.intp, team), emit


def _job(arguments: Any) -> Any:
    return ir.LiteralStructType([_COUNT] * _ARGUMENTS + [arguments])


def _field(builder: Any, job: Any, which: int) -> Any:
    return builder.gep(job, [ir.Constant(_INT, 0), ir.Constant(_INT, which)])


def _part(context: Any, outer: Any, kernel: Any, arguments: Any) -> Any:
    """What each thread does: the part of its own number, and every so many-th after it."""
    context.active_code_library.add_linking_library(kernel.library)
    kind = ir.FunctionType(ir.VoidType(), [_POINTER])
    work = ir.Function(outer.module, kind, outer.module.get_unique_name("part"))
    work.linkage = "internal"
    builder = ir.IRBuilder(work.append_basic_block())
    job = builder.bitcast(work.args[0], _job(arguments).as_pointer())
    count, parts, thread, threads, packed = (
        builder.load(_field(builder, job, which)) for which in range(_ITEMS, _ARGUMENTS + 1)
    )
    zero, one = (ir.Constant(_COUNT, number) for number in (0, 1))
    first, step = cgutils.alloca_once_value(builder, zero), cgutils.alloca_once_value(builder, one)
    with builder.if_then(builder.icmp_signed("!=", parts, one)):
        for address, place in ((thread, first), (threads, step)):
            number = builder.call(builder.inttoptr(address, ir.FunctionType(_INT, []).as_pointer()), [])
            builder.store(builder.sext(number, _COUNT), place)
    values = cgutils.unpack_tuple(builder, packed)
    with cgutils.for_range_slice(builder, builder.load(first), parts, builder.load(step), _COUNT) as (part, _):
        bounds = (builder.sdiv(builder.mul(count, edge), parts) for edge in (part, builder.add(part, one)))
        status, _ = context.call_internal_no_propagate(builder, kernel.fndesc, kernel.signature, [*values, *bounds])
        with builder.if_then(status.is_error, likely=False):
            builder.store(one, _field(builder, job, _FAILED))
    builder.ret_void()
    return work
