"""A user's own network, by hydra's convention: a callable by import path, with its arguments, or a module."""

import os
import sys
from collections.abc import Mapping

from torch import nn

from percep.errors import InputError, one_line


def build(call: Mapping[str, object]) -> nn.Module:
    """The network that a callable returns, given lists and mappings as Python's own; or an existing module.

    Args:
        call: `{"_target_": "my_package.build", "width": 1.0}`, nested where an argument is such a call itself; see
            `hydra.utils.instantiate`.

    Raises:
        InputError: the network cannot be built.
    """
    from hydra.utils import instantiate  # noqa: PLC0415  models that are not built so need no hydra

    target = call["_target_"]
    if call.get("_partial_"):
        raise InputError(f"network {target} is not built with _partial_: true: leave _partial_ out")
    try:
        found = find(str(target))
        if isinstance(found, nn.Module):
            return _alone(found, call)
        built = instantiate({"_convert_": "all", **call})
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the callable's own, or hydra's
        raise InputError(f"network {target} cannot be built: {_reason(error)}") from error
    if not isinstance(built, nn.Module):
        raise InputError(f"network {target} returns a {type(built).__name__}, not a torch.nn.Module")
    return built


def find(path: str) -> object:
    """What an import path leads to. Importing runs code, whose errors are passed on.

    Modules of the working folder are found as `python -m` finds them, whatever started this process.
    """
    from hydra.utils import get_object  # noqa: PLC0415  as above

    folder = os.getcwd()
    if not {"", folder} & set(sys.path):
        sys.path.insert(0, folder)
    return get_object(path)


def _alone(module: nn.Module, call: Mapping[str, object]) -> nn.Module:
    """A module that is built already, which takes no arguments."""
    if set(call) > {"_target_"}:
        raise InputError(
            f"network {call['_target_']} is a module that is built already: it takes no arguments, "
            f"got {', '.join(str(name) for name in call if name != '_target_')}"
        )
    return module


def _reason(error: BaseException) -> str:
    from hydra.errors import InstantiationException  # noqa: PLC0415  as above

    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    return f"{type(cause).__name__}: {one_line(cause)}"
