"""What hydra does of a command line: a run, a sweep, or what its own options show."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from percep.cli.command_line import CONFIGURATION, CommandLine
from percep.cli.composition import check, explained, run_composed
from percep.cli.launchers import check_launcher, job_failures, local_jobs_ended, reason
from percep.cli.printing import is_unread, leave_unread
from percep.errors import PercepError
from percep.runs.engine.launch import is_job, report
from percep.runs.settings import validated

_REPORTED = (PercepError, HydraException, OmegaConfBaseException, OSError)


def run(line: CommandLine) -> int:
    """Runs what a command line asks for, once all of it is found valid.

    Returns:
        The exit code: 0, 2 after one line on stderr, or 141 where nobody reads what is printed.
    """
    try:
        check_launcher(line.arguments)
        if line.plain:
            run_composed(line.settings, _perform)
            return 0
        if line.runs and line.checked:
            check(line.settings, sweeps=line.sweeps)
        with _hydra_command(line.arguments), local_jobs_ended():
            _job()
    except _REPORTED as error:
        if is_unread(error):
            raise
        return report(explained(error), error)
    except RuntimeError as error:
        if not isinstance(error, job_failures()):
            raise
        return report(f"a job has failed: {reason(error)}", error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


@hydra.main(version_base="1.3", config_path=str(CONFIGURATION), config_name="config")
def _job(composed: DictConfig) -> None:
    _perform(composed)


def _perform(composed: DictConfig) -> None:
    try:
        config = validated(composed)
        from percep.cli.tasks import perform  # noqa: PLC0415  torch, and all else that takes seconds

        perform(config, composed)
    except _REPORTED as error:
        if is_job():  # its launcher waits for a result or an exception
            raise
        # Hydra would add a line of its own to an ordinary exception.
        raise SystemExit(leave_unread() if is_unread(error) else report(explained(error), error)) from error


@contextmanager
def _hydra_command(arguments: Iterable[str]) -> Iterator[None]:
    """Hydra reads `sys.argv`, and prints errors over several lines unless this variable is set."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["percep", *arguments], "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
