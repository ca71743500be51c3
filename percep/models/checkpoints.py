"""Reads state dicts as training scripts write them, and loads them into networks that they must fit exactly."""

import pickle
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from percep.errors import InputError, one_line

State = Mapping[str, Tensor]

# In timm's order: averaged weights first.
_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
_COUNTERS = "num_batches_tracked"  # of batch norm: not used in eval mode, and missing in files of before 2018
_COMPILED = "_orig_mod."


def read_state(path: Path) -> State:
    """The state dict in a file of `torch.save` or safetensors, on the CPU. Nothing in it is run.

    Raises:
        InputError: a file that cannot be read, or that does not hold exactly one state dict.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path} is not a file")
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise InputError(_NO_STATE.format(path))
    named = [content[key] for key in _KEYS if _is_state(content.get(key))]
    if named:
        return named[0]
    if _is_state(content):
        return content
    nested = {key: value for key, value in content.items() if _is_state(value)}
    if len(nested) > 1:
        raise InputError(
            f"checkpoint {path} holds several state dicts, {', '.join(nested)}: save the one that is meant"
        )
    if not nested:
        raise InputError(_NO_STATE.format(path))
    return nested.popitem()[1]


_NO_STATE = "checkpoint {} holds no state dict: save network.state_dict() with torch.save"


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path} cannot be read as safetensors: is it complete?") from error


def _read_pickle(path: Path) -> object:
    with torch.serialization.safe_globals([Namespace]):  # the arguments of a training script, kept beside weights
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"checkpoint {path} holds pickled objects, which could run code, or is no checkpoint: "
                "save network.state_dict() alone with torch.save"
            ) from error
        except Exception as error:  # a damaged file may raise anything
            raise InputError(f"checkpoint {path} cannot be read by torch.load: is it complete?") from error


def fill(network: nn.Module, state: State, origin: str, name: str) -> None:
    """Gives a network the weights of a state dict that has all of its entries and no others.

    A prefix that all keys share and the network does not have is removed, such as DataParallel's `module.` and
    torch.compile's `_orig_mod.`. Older names are left to the modules that still load them.

    Args:
        network: of floating-point type; whatever floating-point type the file has is converted to it.
        state: the weights.
        origin: where the state is from, for messages.
        name: of the network, for messages.

    Raises:
        InputError: the state does not fit; the network may be filled in part.
    """
    state = _unwrapped(state, network)
    expected = network.state_dict()
    faults = list(_misfits(expected, state))
    if faults:
        missing = [key for key in expected if key not in state]
        unexpected = [key for key in state if key not in expected]
    else:
        missing, unexpected = _load(network, state, f"{origin} does not fit {name}")
    absent = [f"{key} is missing" for key in missing if not key.endswith(_COUNTERS)]
    faults = [*absent, *(f"{key} is not part of the network" for key in unexpected), *faults]
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise InputError(f"{origin} does not fit {name}: {faults[0]}{more}{_partial_prefix(missing, state)}")


def _misfits(expected: State, state: State) -> Iterator[str]:
    for key, value in expected.items():
        if key in state and state[key].shape != value.shape:
            yield f"{key} has the shape {tuple(state[key].shape)}, not {tuple(value.shape)}"
        elif key in state and value.is_floating_point() and not state[key].is_floating_point():
            yield f"{key} is {state[key].dtype}, not floating point"


def _load(network: nn.Module, state: State, failure: str) -> tuple[list[str], list[str]]:
    """Missing and unexpected keys, after modules have renamed keys of their earlier versions."""
    try:
        try:
            found = network.load_state_dict(state, strict=False)
        except ValueError:  # torchvision's MNASNet asks for its version, which safetensors does not keep
            found = network.load_state_dict(_versioned(state, network.state_dict()), strict=False)
    except Exception as error:  # a network's own code may run here
        raise InputError(f"{failure}: {one_line(error)}") from error
    return found.missing_keys, found.unexpected_keys


def _versioned(state: State, like: State) -> State:
    found = OrderedDict(state)
    vars(found)["_metadata"] = vars(like)["_metadata"]
    return found


def _unwrapped(state: State, network: nn.Module) -> State:
    """The state without the names that wrappers of a network put before and between those of its modules."""
    expected = network.state_dict().keys()
    renamed = {key: key for key in (*state, *getattr(state, "_metadata", {}))}
    if not any(f".{_COMPILED}" in key for key in expected):  # of a module that was compiled on its own
        renamed = {key: name.replace(f".{_COMPILED}", ".") for key, name in renamed.items()}
    best = renamed
    while len({renamed[key].partition(".")[0] for key in state}) == 1 and all("." in renamed[key] for key in state):
        prefix = renamed[next(iter(state))].partition(".")[0]
        renamed = {key: _without(name, prefix) for key, name in renamed.items()}
        if _known(renamed, state, expected) > _known(best, state, expected):
            best = renamed
    found = OrderedDict((best[key], value) for key, value in state.items())
    if len(found) != len(state):
        return state
    if hasattr(state, "_metadata"):
        vars(found)["_metadata"] = {best[key]: value for key, value in state._metadata.items()}
    return found


def _known(renamed: Mapping[str, str], state: State, expected: Collection[str]) -> int:
    return sum(renamed[key] in expected for key in state)


def _without(name: str, prefix: str) -> str:
    return "" if name == prefix else name.removeprefix(f"{prefix}.")


def _partial_prefix(missing: Sequence[str], state: State) -> str:
    """What to say of a prefix that only some keys have, and that hides an entry of the network."""
    wanted = set(missing)
    for key in state:
        parts = key.split(".")
        for i in range(1, len(parts)):
            if ".".join(parts[i:]) in wanted:
                prefix = ".".join(parts[:i]) + "."
                number = sum(name.startswith(prefix) for name in state)
                if number == len(state):
                    return ""
                return f"; {number} of its {len(state)} keys begin with {prefix!r}, which is removed only if all do"
    return ""
