"""Sweeps whose runs are jobs of a cluster, by hydra's submitit launcher."""

import gc
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from percep.errors import UnavailableError

_GRACE, _PATIENCE = 2.0, 10.0
"""Seconds for a job to end by itself, as after the SIGINT of a terminal, which reaches all, and once it is told to."""


def check_launcher(arguments: Sequence[str]) -> None:
    """Looks for what a launcher named on the command line needs.

    Raises:
        UnavailableError: it is not here.
    """
    named = {argument.partition("=")[2] for argument in arguments if argument.startswith("hydra/launcher=")}
    if not named & {"slurm", "submitit_local", "submitit_slurm"}:
        return
    from importlib import metadata  # noqa: PLC0415  a tenth of what hydra takes

    try:
        metadata.version("hydra-submitit-launcher")
    except metadata.PackageNotFoundError as error:
        raise UnavailableError("this launcher needs the package submitit: pip install 'percep[slurm]'") from error
    if "submitit_local" not in named and (shutil.which("srun") is None or shutil.which("sbatch") is None):
        raise UnavailableError(
            "SLURM's srun and sbatch are not on this machine: hydra/launcher=submitit_local needs none"
        )


def job_failures() -> tuple[type[Exception], ...]:
    """What a launcher raises when a job has failed."""
    if "submitit" not in sys.modules:
        return ()
    from submitit.core.utils import UncompletedJobError  # noqa: PLC0415  an optional package

    return (UncompletedJobError,)


@contextmanager
def local_jobs_ended() -> Iterator[None]:
    """Ends the jobs on this machine if what waits for them is interrupted: submitit would have them go on.

    Jobs of SLURM are left to it.
    """
    try:
        yield
    except KeyboardInterrupt:
        for job in _unfinished(_local_jobs(), _GRACE):
            job.cancel()
        _unfinished(_local_jobs(), _PATIENCE)
        raise


def _local_jobs() -> list[Any]:
    """Those of this process; submitit keeps no list of them."""
    if "submitit" not in sys.modules:
        return []
    from submitit import LocalJob  # noqa: PLC0415  an optional package

    found = [item for item in gc.get_objects() if type(item) is LocalJob]
    return list({job.job_id: job for job in found}.values())  # a job of several tasks has one for each


def _unfinished(jobs: list[Any], seconds: float) -> list[Any]:
    """The jobs that have not ended after so long; it waits no longer than it must."""
    end = monotonic() + seconds
    while (left := [job for job in jobs if not job.done()]) and monotonic() < end:
        sleep(0.05)
    return left


def reason(failure: Exception) -> str:
    """What went wrong in a job: the last line of its traceback, or all that its launcher knows."""
    lines = [
        line for line in str(failure).splitlines() if line.strip() and not line.startswith(("---", "You can check"))
    ]
    name, _, message = lines[-1].partition(": ")
    return message if name.startswith("percep.errors.") else " ".join(lines[-1].split())
