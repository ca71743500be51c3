"""Versions, devices, and the provenance of a run: everything its results depend on beside its settings."""

import ast
import hashlib
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType

import torch
from hydra.utils import get_object
from torch import nn

from percep import kernels

_PACKAGES = ("percep", "torch", "torchvision", "kornia", "captum", "hydra-core", "numpy")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages a result depends on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def devices() -> Iterator[tuple[str, str]]:
    """The processor and the GPUs that PyTorch finds, and the kernels of each: names and descriptions."""
    yield "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads (OMP_NUM_THREADS)"
    yield "kernels", kernels.described(torch.device("cpu"))
    if not torch.cuda.is_available():
        yield "cuda", "none that PyTorch finds"
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
        yield "kernels", kernels.described(torch.device("cuda", number))


def provenance(
    model: nn.Module, photographs: str, device: str, network: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Versions, photographs, weights, code, kernels, and on a CPU the number of threads, by name.

    Args:
        model: a `percep.models.Classifier`.
        photographs: the digest of their `percep.data.Inventory`.
        device: the network's.
        network: the call that built a user's own network.
    """
    found = {f"version of {name}": version for name, version in versions().items()}
    found |= {"photographs": photographs, "weights": weights_digest(model)}
    found["code of the network"] = code_digest(model.get_submodule("network"), network)
    found["kernels (PERCEP_KERNELS)"] = kernels.described(torch.device(device))
    if device == "cpu":  # the order of sums depends on it
        found["threads (OMP_NUM_THREADS)"] = str(torch.get_num_threads())
    return found


def weights_digest(model: nn.Module) -> str:
    """A digest of the weights and statistics of a network."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().view(torch.uint8).numpy() if value.ndim else repr(value).encode())
    return digest.hexdigest()


def code_digest(network: nn.Module, call: Mapping[str, object] | None = None) -> str:
    """A digest of the function a network computes of its weights, independent of process, device and threads.

    It covers the network's modules as they are printed, and the syntax trees, without comments, of the files that
    define them, that build the network, and that these import from outside installed packages. A digest of logits would
    depend on threads and devices, even rounded. Imports inside functions are not covered.

    Args:
        network: of any kind.
        call: that built it, as `percep.models.load` takes it.
    """
    digest = hashlib.blake2b(_printed(network).encode(), digest_size=16)
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule) and hasattr(module, "forward"):
            digest.update(module.code.encode())
    roots = {_module_of(type(module)) for module in network.modules()}
    roots |= {_module_of(get_object(target)) for target in _targets(call)}
    _update(digest, roots)
    return digest.hexdigest()


def import_digest(path: str) -> str:
    """A digest of the code behind an import path, found before, in the same way as `code_digest`.

    It covers the module that the path leads into, and the one that defines what is there, which may be another.
    """
    parts = path.split(".")
    modules = (sys.modules.get(".".join(parts[:count])) for count in range(len(parts), 0, -1))
    digest = hashlib.blake2b(path.encode(), digest_size=16)
    _update(digest, {next((module for module in modules if module), None), _module_of(get_object(path))})
    return digest.hexdigest()


def _update(digest: hashlib.blake2b, roots: Iterable[ModuleType | None]) -> None:
    """Updates a digest by the code of modules and of the user's own that these import."""
    for code in sorted({_code(module) for module in _with_imports(roots)}):
        digest.update(code)


def _printed(network: nn.Module) -> str:
    """The printed network, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(network))


def _targets(call: object) -> Iterator[str]:
    """The import paths of a call and of the calls among its arguments."""
    if isinstance(call, Mapping):
        if isinstance(call.get("_target_"), str):
            yield call["_target_"]
        call = list(call.values())
    if isinstance(call, list | tuple):
        for argument in call:
            yield from _targets(argument)


def _module_of(value: object) -> ModuleType | None:
    """The module that defines a value, or the value itself if it is a module."""
    if isinstance(value, ModuleType):
        return value
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _with_imports(roots: Iterable[ModuleType | None]) -> set[ModuleType]:
    """Modules, and the user's own modules that they import names from, directly or not."""
    found: set[ModuleType] = set()
    remaining = [module for module in roots if module is not None]
    while remaining:
        module = remaining.pop()
        if module in found:
            continue
        found.add(module)
        if not _is_installed(module):
            imported = [_module_of(value) for value in vars(module).values()]
            remaining.extend(one for one in imported if one is not None and not _is_installed(one))
    return found


def _is_installed(module: ModuleType) -> bool:
    """Whether a module is Python's, of an installed package, or percep's, which versions identify."""
    path = _path(module)
    if path is None or module.__name__.partition(".")[0] == "percep":
        return True
    return path.is_relative_to(sysconfig.get_path("stdlib")) or bool({"site-packages", "dist-packages"} & {*path.parts})


def _path(module: ModuleType) -> Path | None:
    name = getattr(module, "__file__", None)
    return Path(name) if isinstance(name, str) and Path(name).is_file() else None


def _code(module: ModuleType) -> bytes:
    path = _path(module)
    if path is None:
        return b""
    content = path.read_bytes()
    if _is_installed(module):
        return content
    try:
        return ast.dump(ast.parse(content)).encode()
    except (SyntaxError, ValueError):  # not Python
        return content


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
