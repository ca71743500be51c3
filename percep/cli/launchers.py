"""Sweeps whose runs are jobs of a cluster, by hydra's submitit launcher."""

import shutil
import sys
from collections.abc import Sequence

from percep.errors import UnavailableError


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


def reason(failure: Exception) -> str:
    """What went wrong in a job: the last line of its traceback, or all that its launcher knows."""
    lines = [
        line for line in str(failure).splitlines() if line.strip() and not line.startswith(("---", "You can check"))
    ]
    name, _, message = lines[-1].partition(": ")
    return message if name.startswith("percep.errors.") else " ".join(lines[-1].split())
