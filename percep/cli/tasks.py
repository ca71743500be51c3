"""A valid configuration, done by its task, and what is printed of it."""

import shlex
import sys
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from percep.runs import TASKS
from percep.runs.config import Config
from percep.runs.task import Request


def perform(config: Config, composed: DictConfig) -> None:
    """Does the task of a configuration, and prints what came of it.

    Args:
        config: valid.
        composed: by hydra; `config` is made of it.

    Raises:
        PercepError: what was asked for cannot be had.
        OSError: a file cannot be read or written.
    """
    if lines := TASKS[config.task].run(config, _request(config, composed)):
        encoding = sys.stdout.encoding or "utf-8"  # which may not have all characters of a folder's name
        print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _request(config: Config, composed: DictConfig) -> Request:
    hydra = HydraConfig.get()
    overrides = hydra.overrides.task
    again = [override for override in overrides if not override.startswith("output=")]  # its folder is not empty now
    swept = hydra.mode == RunMode.MULTIRUN
    return Request(
        command=shlex.join(["percep", *again]),
        settings=cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True)),
        folder=Path(hydra.runtime.output_dir if swept else config.output),
        output=config.output,
        names_folder=len(again) < len(overrides),
    )
