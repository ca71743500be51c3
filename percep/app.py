"""The `percep` command: a configuration in, a folder with a report, adversarial photographs and tables out."""

import difflib
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import cast

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

from percep.campaign import Campaign
from percep.compare import Compare
from percep.config import (
    TASKS,
    AttackTask,
    CompareTask,
    Config,
    ExplainTask,
    InfoTask,
    MergeTask,
    MinimalTask,
    validated,
)
from percep.errors import InputError, PercepError, UnavailableError
from percep.info import info
from percep.merge import merge
from percep.report import Facts, console_lines
from percep.report.comparison import (
    ComparisonRow,
    accuracy,
    by_attack,
    save_curves,
    summary,
    table,
    write_comparison,
    write_comparison_summary,
)
from percep.report.comparison_gallery import ComparisonGallery
from percep.report.comparison_page import save_comparison_report
from percep.report.verdict import lines_of, remarks, warnings
from percep.scale.folder import is_free, recorded
from percep.scale.processes import join, several, silent
from percep.scale.sweeps import check_launcher, is_job, job_failures, reason
from percep.study_campaign import StudyCampaign
from percep.study_merge import merge_study

_CONFIGURATION = Path(__file__).parent / "conf"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: what follows `percep` on the command line; `sys.argv` by default.

    Returns:
        The exit code: 0, or 2 after one line on stderr that says what to change, or 130 when interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        check_launcher(given)
        with _hydra_command(given):
            _job()
    except _REPORTED as error:
        return _report(error)
    except RuntimeError as error:
        if not isinstance(error, job_failures()):
            raise
        return _report(UnavailableError(f"a job has failed: {reason(error)}"))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return 130
    return 0


@hydra.main(version_base="1.3", config_path=str(_CONFIGURATION), config_name="config")
def _job(composed: DictConfig) -> None:
    try:
        config = validated(composed)
        if isinstance(config, CompareTask):
            _compare(config, composed)
        elif isinstance(config, InfoTask):
            _print(info(config))
        elif isinstance(config, MergeTask):
            _merge(Path(config.output))
        else:
            assert isinstance(config, AttackTask | MinimalTask | ExplainTask)
            _continue(config, composed)
    except _REPORTED as error:
        if is_job():  # its launcher waits for a result or an exception
            raise
        # Hydra would add a line of its own to an ordinary exception.
        raise SystemExit(_report(error)) from error


def _continue(config: AttackTask | MinimalTask | ExplainTask, composed: DictConfig) -> None:
    """Runs what one process does or several, from where it was left."""
    processes = join(config.device)
    folder = processes.first(lambda: _run_folder(config, processes.world))
    facts = _facts(composed, None)
    device = processes.device(config.device)
    campaign: Campaign | StudyCampaign
    if isinstance(config, ExplainTask):
        campaign = StudyCampaign(replace(config, device=device), folder, processes, facts.command, facts.settings)
    else:
        campaign = Campaign(replace(config, device=device), folder, processes, facts.command, facts.settings)
    if processes.rank == 0:
        OmegaConf.save(composed, folder / "config.yaml", resolve=True)
    found = campaign()
    if processes.rank == 0:
        _say(found if isinstance(found, str) else console_lines(found), folder)


def _merge(folder: Path) -> None:
    study = recorded(folder).settings["task"] == "explain"
    _say(merge_study(folder) if study else console_lines(merge(folder)), folder)


def _run_folder(config: Config, world: int) -> Path:
    """The folder of a run, which may have been begun there."""
    given = any(override.startswith("output=") for override in HydraConfig.get().overrides.task)
    if world > 1 and not given:
        raise InputError("several processes need a folder that a later command can continue: give output=FOLDER")
    folder = _made_folder(config)
    if not is_free(folder):
        raise InputError(f"output folder {folder} is not empty: choose another with output=FOLDER")
    return folder


def _facts(composed: DictConfig, planned: int | None) -> Facts:
    overrides = HydraConfig.get().overrides.task
    again = [override for override in overrides if not override.startswith("output=")]  # its folder is not empty now
    settings = cast(dict[str, object], OmegaConf.to_container(composed, resolve=True))
    return Facts(shlex.join(["percep", *again]), settings, planned)


def _compare(config: CompareTask, composed: DictConfig) -> None:
    folder = _output_folder(config)
    compare = Compare(config)
    OmegaConf.save(composed, folder / "config.yaml", resolve=True)
    rows: list[ComparisonRow] = []
    gallery = ComparisonGallery()
    try:
        with _progress() as progress:
            bar = progress.add_task(config.task, total=len(compare), note="")
            for compared in compare:
                rows.append(compared.row)
                gallery.add(compared.row, compared.images)
                progress.update(bar, advance=1, note=compared.row.name)
    finally:  # what was done before an interruption is kept
        if rows:
            write_comparison(folder / "compare.csv", rows)
            write_comparison_summary(folder / "summary.json", rows, config.seed, compare.classes)
            facts = _facts(composed, len(compare.subjects))
            save_comparison_report(
                folder / "report.html", facts, rows, gallery, config.compare.attacks, compare.classes
            )
    found = by_attack(rows)
    lines = table([summary(outcomes) for outcomes in found.values()])
    (folder / "table.md").write_text(lines + "\n", encoding="utf-8")
    save_curves(folder / "curves.png", found, config.compare.gradients)
    known = accuracy(rows, compare.classes)
    _say(lines_of([lines, *remarks(known)], warnings(known)), folder)


def _output_folder(config: Config) -> Path:
    """The folder of a task that one process does, from its beginning to its end."""
    if several():
        raise InputError(f"task={config.task} runs in one process: start it without torchrun")
    folder = _made_folder(config)
    if any(folder.iterdir()):
        raise InputError(f"output folder {folder} is not empty: choose another with output=FOLDER")
    return folder


def _made_folder(config: Config) -> Path:
    hydra_config = HydraConfig.get()
    swept = hydra_config.mode == RunMode.MULTIRUN
    folder = Path(hydra_config.runtime.output_dir if swept else config.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output folder {folder} cannot be made ({error.strerror}): choose another with output=FOLDER"
        ) from error
    return folder


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _say(result: str, folder: Path) -> None:
    _print(result, f"Outputs are in {folder}")


def _print(*lines: str) -> None:
    Console(soft_wrap=True, highlight=False).print(*lines, sep="\n", markup=False)


_REPORTED = (PercepError, HydraException, OmegaConfBaseException, OSError)


def _report(error: Exception) -> int:
    if not silent(error):
        print(f"percep: {' '.join(_explain(error).split())}", file=sys.stderr)
    return 2


def _explain(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} is missing: give {cause.full_key}=VALUE"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and is_dataclass(cause.object_type):
        known = [field.name for field in fields(cause.object_type)]
        close = difflib.get_close_matches(str(cause.key), known, n=1)
        hint = f"did you mean {close[0]}? " if close else _task_hint(str(cause.full_key))
        return f"unknown key {cause.full_key}: {hint}known are {', '.join(known)}"
    if isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key}: {str(cause.msg).splitlines()[0]}"
    if isinstance(error, HydraException):
        return str(error).partition("Config search path")[0]
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _task_hint(key: str) -> str:
    tasks = [f"task={name}" for name, task in TASKS.items() if key in {field.name for field in fields(task)}]
    return f"it belongs to {' or '.join(tasks)}; " if tasks else ""


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
