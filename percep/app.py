"""The `percep` command: a configuration in, a folder of panels, adversarial photographs and tables out."""

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from percep.config import Config, validated
from percep.errors import InputError, PercepError
from percep.report import ImageRow, Panel, save_overview, summarise, write_results, write_summary
from percep.run import Run

_CONFIGURATION = Path(__file__).parent / "conf"
_OVERVIEW_ROWS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: what follows `percep` on the command line; `sys.argv` by default.

    Returns:
        The exit code: 0, or 2 after one line on stderr that says what to change, or 130 when interrupted.
    """
    try:
        with _hydra_command(sys.argv[1:] if arguments is None else arguments):
            _job()
    except _REPORTED as error:
        return _report(error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return 130
    return 0


@hydra.main(version_base="1.3", config_path=str(_CONFIGURATION), config_name="config")
def _job(composed: DictConfig) -> None:
    try:
        _attack(validated(composed), composed)
    except _REPORTED as error:
        # Hydra would add a line of its own to an ordinary exception.
        raise SystemExit(_report(error)) from error


def _attack(config: Config, composed: DictConfig) -> None:
    folder = _output_folder(config)
    run = Run(config, folder)
    OmegaConf.save(composed, folder / "config.yaml", resolve=True)
    rows: list[ImageRow] = []
    panels: list[Panel] = []
    try:
        with _progress() as progress:
            bar = progress.add_task("attack", total=len(run), turned=0)
            for outcome in run:
                rows.append(outcome.row)
                if outcome.panel is not None and len(panels) < _OVERVIEW_ROWS:
                    panels.append(outcome.panel)
                progress.update(bar, advance=1, turned=sum(row.correct_before and bool(row.success) for row in rows))
    finally:  # what was done before an interruption is kept
        if rows:
            write_results(folder / "results.csv", rows)
            write_summary(folder / "summary.json", rows, config.seed)
    if panels:
        save_overview(folder / "overview.png", panels)
    Console(soft_wrap=True, highlight=False).print(_verdict(rows), f"Outputs are in {folder}", sep="\n", markup=False)


def _output_folder(config: Config) -> Path:
    hydra_config = HydraConfig.get()
    swept = hydra_config.mode == RunMode.MULTIRUN
    folder = Path(hydra_config.runtime.output_dir if swept else config.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output folder {folder} cannot be made ({error.strerror}): choose another with output=FOLDER"
        ) from error
    if any(folder.iterdir()):
        raise InputError(f"output folder {folder} is not empty: choose another with output=FOLDER")
    return folder


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[turned]} turned"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _verdict(rows: Sequence[ImageRow]) -> str:
    summary = summarise(rows)
    turned = f"{summary['successes']} of {summary['correct_before']} correctly classified photographs turned"
    unreadable = f", {summary['unreadable']} unreadable" if summary["unreadable"] else ""
    return f"{turned}, {summary['certified']} of them certified{unreadable}"


_REPORTED = (PercepError, HydraException, OmegaConfBaseException, OSError)


def _report(error: Exception) -> int:
    print(f"percep: {' '.join(_explain(error).split())}", file=sys.stderr)
    return 2


def _explain(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} is missing: give {cause.full_key}=VALUE"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and is_dataclass(cause.object_type):
        known = [field.name for field in fields(cause.object_type)]
        close = difflib.get_close_matches(str(cause.key), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"unknown key {cause.full_key}: {hint}known are {', '.join(known)}"
    if isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key}: {str(cause.msg).splitlines()[0]}"
    if isinstance(error, HydraException):
        return str(error).partition("Config search path")[0]
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


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
