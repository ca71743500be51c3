"""Triton's interpreter, which takes the place of a GPU in the rehearsal."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from unittest.mock import patch

import torch

from percep import kernels

_OPEN = ExitStack()


@contextmanager
def interpreted() -> Iterator[None]:
    """Tensors on a CPU go to Triton's kernels; the interpreter must have been asked for (TRITON_INTERPRET=1).

    Most of the interpreter's time is spared: without `debug`, it works out whether integers overflow and throws the
    answer away, and at every call of a device function it puts its own functions into `triton.language` once more.
    """
    interpreter = import_module("triton.runtime.interpreter")
    builder = interpreter.interpreter_builder
    options = replace(builder.options, sanitize_overflow=builder.options.debug)
    # A kernel's module sees `triton.language`, that of `tl.sum` what is below.
    functions = (import_module("percep.kernels.gpu.triton_kernels")._pass.fn, import_module("triton.language").sum.fn)
    with ExitStack() as changes:
        for function in functions:
            changes.callback(interpreter._patch_lang(function).restore)
        changes.enter_context(patch.dict(os.environ, {kernels.CHOICE: "triton"}))
        changes.enter_context(patch.object(builder, "options", options))
        changes.enter_context(patch.object(interpreter, "_patch_lang", lambda _: interpreter._LangPatchScope()))
        yield


def rehearse(device: torch.device) -> None:
    """`interpreted` for the rest of the process, unless the device is a GPU."""
    if device.type != "cuda":
        _OPEN.enter_context(interpreted())
