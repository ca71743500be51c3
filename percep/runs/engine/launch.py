"""How this process was started: alone, or as one of several by torchrun or as a task of a submitit job.

Nothing here imports torch, so that several processes can say once what is wrong with a command line.
"""

import os
import sys

from percep.errors import PercepError


class ElsewhereError(PercepError):
    """What went wrong in another process, which says so itself."""


class SharedError(PercepError):
    """What went wrong in one of the processes, raised in each; the first one says so."""


def several() -> bool:
    """Whether this process was started as one of several."""
    _from_submitit()
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_job() -> bool:
    """Whether this process is a job that a launcher waits for."""
    return "SUBMITIT_EXECUTOR" in os.environ


def is_first() -> bool:
    """Whether this process speaks for all of them."""
    return os.environ.get("RANK", "0") == "0"


def report(words: str, error: Exception) -> int:
    """Says in one line on stderr what went wrong, in one of the processes; 2, the exit code that goes with it."""
    if not _silent(error):
        print(f"percep: {' '.join(words.split())}", file=sys.stderr)
    return 2


def _silent(error: Exception) -> bool:
    """Whether this process leaves it to another one to report an error."""
    met_by_all = isinstance(error, SharedError) or not _joined()
    return isinstance(error, ElsewhereError) or (not is_first() and met_by_all)


def _joined() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized()


def _from_submitit() -> None:
    """Tasks of one submitit job are processes of one run."""
    if "submitit" not in sys.modules or not is_job() or "RANK" in os.environ:
        return
    from submitit import JobEnvironment  # noqa: PLC0415  an optional package
    from submitit.helpers import TorchDistributedEnvironment  # noqa: PLC0415

    if JobEnvironment().num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
