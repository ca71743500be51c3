"""A task over any number of photographs: what the engine asks of one."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

import torch

from percep.data.photographs import Source
from percep.models import Classifier
from percep.runs.config import Config
from percep.runs.engine.worker import Worker
from percep.runs.inputs import load_inputs

C = TypeVar("C", bound=Config)


class Campaign(ABC, Generic[C]):
    """A task in its folder, which is continued if it was begun: `percep.runs.engine.run.run` does it.

    Args:
        config: what to do; `device` is this process's.
        folder: empty, or of the same run. Parts are somewhere in its `parts/`.

    Attributes:
        model: of the configuration, on the device.
        photographs: none of them read yet.
        passes: how many stages go over the photographs.

    Raises:
        InputError: a model, checkpoint, device, path or label that is not usable.
        UnavailableError: weights, a library or a device that cannot be had here.
    """

    def __init__(self, config: C, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.model: Classifier
        self.photographs: Source
        torch.manual_seed(config.seed)  # of a network that draws its weights when it is built
        self.model, self.photographs = load_inputs(config)
        self.passes = 1

    def check(self) -> None:
        """Refuses, in the first process and before anything is written, what cannot be done; a run that was begun is
        not asked again.

        Raises:
            InputError: why.
        """

    def depends_on(self) -> dict[str, str]:
        """What results depend on beside settings, model and photographs, by name, for the manifest."""
        return {}

    @abstractmethod
    def work(self, worker: Worker) -> None:
        """Does what is left, `worker.do` of one stage after the other."""

    @classmethod
    @abstractmethod
    def merge(cls, folder: Path) -> str:
        """Writes the tables and the report of the parts in a folder, finished or not, each file whole or not at all.

        Returns:
            What is to be said of the photographs.

        Raises:
            InputError: no run, a damaged part, or parts that nothing can be said of.
            OSError: a file cannot be written.
        """
