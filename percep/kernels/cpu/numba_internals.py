"""The names of Numba that its documentation does not promise, and that the CPU's kernels rely on.

A version without one of them leaves the work to torch, with a warning. The range of versions that `pyproject.toml`
asks for is the one in which all of them are tested.
"""

from importlib import import_module

NAMES: dict[str, tuple[str, ...]] = {
    "numba.core.base": (
        "BaseContext.call_internal_no_propagate",
        "BaseContext.get_dummy_value",
        "BaseContext.make_array",
        "BaseContext.make_tuple",
    ),
    "numba.core.callconv": ("CPUCallConv.return_user_exc",),
    "numba.core.cgutils": (
        "alloca_once",
        "alloca_once_value",
        "for_range_slice",
        "get_or_insert_function",
        "unpack_tuple",
    ),
    "numba.core.codegen": ("CodeLibrary.add_linking_library", "CPUCodegen.magic_tuple"),
    "numba.core.cpu": ("CPUContext.active_code_library", "CPUContext.call_conv", "CPUContext.codegen"),
    "numba.core.datamodel.models": ("PrimitiveModel",),
    "numba.core.dispatcher": ("Dispatcher.compile", "Dispatcher.get_compile_result"),
    "numba.core.registry": ("cpu_target.target_context",),
    "numba.core.types": ("Integer", "Type", "UniTuple", "float32", "int64", "intp", "void"),
    "numba.core.typing": ("signature",),
    "numba.core.typing.templates": ("ConcreteTemplate", "infer_global"),
    "llvmlite.ir": (
        "Constant",
        "FloatType",
        "Function",
        "FunctionType",
        "IRBuilder",
        "IntType",
        "LiteralStructType",
        "Undefined",
        "VectorType",
        "VoidType",
    ),
}
"""By module; a dot leads to an attribute."""


def require() -> None:
    """Raises `ImportError` with the first of `NAMES` that is missing."""
    for module, names in NAMES.items():
        for name in names:
            found = import_module(module)
            for part in name.split("."):
                if not hasattr(found, part):
                    raise ImportError(f"{module}.{name} is missing from the installed version")
                found = getattr(found, part)
