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

    Without `debug`, it works out whether integers overflow and throws the answer away: most of its time.
    """
    builder = import_module("triton.runtime.interpreter").interpreter_builder
    options = replace(builder.options, sanitize_overflow=builder.options.debug)
    with patch.dict(os.environ, {kernels.CHOICE: "triton"}), patch.object(builder, "options", options):
        yield


def rehearse(device: torch.device) -> None:
    """`interpreted` for the rest of the process, unless the device is a GPU."""
    if device.type != "cuda":
        _OPEN.enter_context(interpreted())
