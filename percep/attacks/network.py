"""A model as attacks call it, under the caller's modes of torch, and the modes under which attacks compute."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook

from percep.errors import InputError
from percep.precision import under_current_autocast, without_autocast
from percep.validation.images import require_eval
from percep.validation.logits import logits_of


@contextmanager
def own_modes(gradients: bool = False) -> Iterator[None]:
    """No autocast, no inference mode, gradients only where they are taken, or everywhere."""
    with without_autocast(), torch.inference_mode(False), torch.set_grad_enabled(gradients):
        yield


def plain(tensor: Tensor) -> Tensor:
    """A tensor without a graph that autograd can save, which it cannot if made under `torch.inference_mode`."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


class Network:
    """A model as an attack calls it: `(n, C, H, W)` images in [0, 1] to `(n, K)` logits in their dtype.

    It runs under the autocast of where this object was made, whatever surrounds the call.

    Args:
        model: answers logits, or what holds them (`percep.validation.logits.logits_of`).
        together: whether images are given together, where a module whose answers depend on its batch is refused.

    Raises:
        InputError: a module in train mode, however deep inside; batch statistics. Where the model is no module, its
            modules are checked in the first call.
    """

    def __init__(self, model: Callable[[Tensor], Any], together: bool) -> None:
        self._together = together
        require_eval(model)
        owner = getattr(model, "__self__", model)
        self._checked = isinstance(owner, nn.Module)
        if isinstance(owner, nn.Module):
            for module in owner.modules():
                self._require_own_statistics(module)
        self._model = under_current_autocast(model)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(n, K)`.

        Raises:
            InputError: an answer without logits, or with several that could be meant; weights or images without a
                gradient, as they were made under inference mode.
        """
        try:
            output = self._model(images) if self._checked else self._first_call(images)
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise InputError(
                "the model holds tensors made under torch.inference_mode, through which no gradient passes: "
                "build and load it outside"
            ) from error
        return logits_of(output, images).to(images.dtype)

    def _first_call(self, images: Tensor) -> Any:
        """The first answer of a callable that is no module, while the modules that it calls are checked."""
        caller = threading.get_ident()

        def check(module: nn.Module, _: object) -> None:
            if threading.get_ident() != caller:
                return
            if module.training and _has_modes(module):
                raise InputError(
                    f"the model calls a {type(module).__name__} in train mode, where outputs vary: "
                    "call eval() on its network first"
                )
            self._require_own_statistics(module)

        hook = register_module_forward_pre_hook(check)
        try:
            output = self._model(images)
        finally:
            hook.remove()
        self._checked = True
        return output

    def _require_own_statistics(self, module: nn.Module) -> None:
        if self._together and isinstance(module, _BatchNorm) and module.running_mean is None:
            raise InputError(
                f"the model's {type(module).__name__} has no running statistics, so that images of a batch change "
                "each other's logits: attack them one at a time"
            )


def _has_modes(module: nn.Module) -> bool:
    """Whether train mode may change what a module answers; transforms are modules too, mostly left in train mode."""
    kinds = (_BatchNorm, _DropoutNd)
    return isinstance(module, kinds) or next(module.parameters(), None) is not None
