"""What percep runs on, and what the results of a run depend on beside its settings: versions, devices, provenance."""

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
    """The processor and the GPUs that PyTorch finds, and what compiles kernels for each: a name and what is known."""
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
        network: the call that built it, where it is the user's own.
    """
    found = {f"version of {name}": version for name, version in versions().items()}
    found |= {"photographs": photographs, "weights": weights_digest(model)}
    found["code of the network"] = code_digest(model.get_submodule("network"), network)
    found["kernels (PERCEP_KERNELS)"] = kernels.described(torch.device(device))
    if device == "cpu":  # sums are split among threads
        found["threads (OMP_NUM_THREADS)"] = str(torch.get_num_threads())
    return found


def weights_digest(model: nn.Module) -> str:
    """Changes when a weight or a statistic of a network does."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().view(torch.uint8).numpy() if value.ndim else repr(value).encode())
    return digest.hexdigest()


def code_digest(network: nn.Module, call: Mapping[str, object] | None = None) -> str:
    """Changes when what a network computes of its weights does, but not with the process, the device or the threads.

    It is that of the modules a network is made of, as it prints them, and of the code of the files that define them,
    that build the network, and that those import from where no packages are installed; comments and line breaks do not
    count. Logits would not do: their last digits depend on threads and devices, and a number that is rounded may still
    lie on either side of the middle. What is not seen is code that a function imports when it is called.

    Args:
        network: of any kind.
        call: what built it, as `percep.models.load` takes it.
    """
    digest = hashlib.blake2b(_printed(network).encode(), digest_size=16)
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule) and hasattr(module, "forward"):
            digest.update(module.code.encode())
    roots = {_module_of(type(module)) for module in network.modules()}
    roots |= {_module_of(get_object(target)) for target in _targets(call)}
    for code in sorted({_code(module) for module in _with_imports(roots)}):
        digest.update(code)
    return digest.hexdigest()


def _printed(network: nn.Module) -> str:
    """As it prints itself, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(network))


def _targets(call: object) -> Iterator[str]:
    """What a call names, and the calls among its arguments."""
    if isinstance(call, Mapping):
        if isinstance(call.get("_target_"), str):
            yield call["_target_"]
        call = list(call.values())
    if isinstance(call, list | tuple):
        for argument in call:
            yield from _targets(argument)


def _module_of(value: object) -> ModuleType | None:
    """The module that defines a value, or is it."""
    if isinstance(value, ModuleType):
        return value
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _with_imports(roots: Iterable[ModuleType | None]) -> set[ModuleType]:
    """Modules, and those of one's own whose names they hold, at any distance."""
    found: set[ModuleType] = set()
    left = [module for module in roots if module is not None]
    while left:
        module = left.pop()
        if module in found:
            continue
        found.add(module)
        if not _is_installed(module):
            held = [_module_of(value) for value in vars(module).values()]
            left.extend(one for one in held if one is not None and not _is_installed(one))
    return found


def _is_installed(module: ModuleType) -> bool:
    """Whether a module is Python's, of a package, or ours: what changes with a version."""
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
    except (SyntaxError, ValueError):  # no Python
        return content


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
