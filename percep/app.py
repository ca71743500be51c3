"""The `percep` command: a configuration in, a folder with a report, adversarial photographs and tables out."""

import difflib
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
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

from percep.compare import Compare
from percep.config import TASKS, AttackTask, CompareTask, Config, ExplainTask, MinimalTask, validated
from percep.errors import InputError, PercepError
from percep.report import (
    Exhibit,
    Facts,
    ImageRow,
    Panel,
    exhibit,
    save_image,
    save_overview,
    save_report,
    summarise,
    write_results,
    write_summary,
)
from percep.report.comparison import (
    ComparisonRow,
    by_attack,
    save_curves,
    summary,
    table,
    write_comparison,
    write_comparison_summary,
)
from percep.report.comparison_gallery import ComparisonGallery
from percep.report.comparison_page import save_comparison_report
from percep.report.study_gallery import StudyGallery
from percep.report.study_page import save_study_report
from percep.report.study_plots import save_study_plots
from percep.report.study_tables import write_study
from percep.run import Run
from percep.study.study import Study

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
        config = validated(composed)
        if isinstance(config, CompareTask):
            _compare(config, composed)
        elif isinstance(config, ExplainTask):
            _study(config, composed)
        else:
            assert isinstance(config, AttackTask | MinimalTask)
            _attack(config, composed)
    except _REPORTED as error:
        # Hydra would add a line of its own to an ordinary exception.
        raise SystemExit(_report(error)) from error


def _attack(config: AttackTask | MinimalTask, composed: DictConfig) -> None:
    folder = _output_folder(config)
    run = Run(config, folder)
    OmegaConf.save(composed, folder / "config.yaml", resolve=True)
    rows: list[ImageRow] = []
    panels: list[Panel] = []
    exhibits: dict[str, Exhibit] = {}
    try:
        with _progress() as progress:
            bar = progress.add_task(config.task, total=len(run), note="0 turned")
            for outcome in run:
                rows.append(outcome.row)
                if outcome.panel is not None:
                    exhibits[outcome.row.name] = exhibit(outcome.panel)
                    panels.extend([outcome.panel] if len(panels) < _OVERVIEW_ROWS else [])
                turned = sum(row.correct_before and bool(row.success) for row in rows)
                progress.update(bar, advance=1, note=f"{turned} turned")
    finally:  # what was done before an interruption is kept
        if rows:
            write_results(folder / "results.csv", rows)
            write_summary(folder / "summary.json", rows, config.seed)
            save_report(folder / "report.html", _facts(composed, len(run)), rows, exhibits)
    if panels:
        save_overview(folder / "overview.png", panels)
    _say(_verdict(rows), folder)


def _facts(composed: DictConfig, planned: int) -> Facts:
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
            write_comparison_summary(folder / "summary.json", rows, config.seed)
            facts = _facts(composed, len(compare.subjects))
            save_comparison_report(folder / "report.html", facts, rows, gallery, config.compare.attacks)
    found = by_attack(rows)
    lines = table([summary(outcomes) for outcomes in found.values()])
    (folder / "table.md").write_text(lines + "\n", encoding="utf-8")
    save_curves(folder / "curves.png", found, config.compare.gradients)
    _say(lines, folder)


def _study(config: ExplainTask, composed: DictConfig) -> None:
    folder = _output_folder(config)
    study = Study(config)
    OmegaConf.save(composed, folder / "config.yaml", resolve=True)
    (folder / "adversarial").mkdir()
    gallery = StudyGallery(study.model.category)
    try:
        with _progress() as progress:
            bar = progress.add_task(config.task, total=len(study), note="")
            for step in study:
                if step.examined is not None:
                    for name, image in zip(step.examined.names, step.examined.saved, strict=True):
                        save_image(folder / "adversarial" / f"{name}.png", image)
                    gallery.add(step.examined)
                progress.update(bar, advance=step.photographs, note=step.variant)
    finally:  # what was done before an interruption is kept
        if study.turned:
            findings = study.findings
            write_study(folder, findings, config.seed)
            save_study_plots(folder / "plots.png", findings)
            save_study_report(folder / "report.html", _facts(composed, len(study.photographs)), findings, gallery)
    findings = study.findings
    _say("\n".join([findings.verdict, *(criterion.sentence for criterion in findings.criteria)]), folder)


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
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _verdict(rows: Sequence[ImageRow]) -> str:
    counts = summarise(rows)
    turned = f"{counts['successes']} of {counts['correct_before']} correctly classified photographs turned"
    unreadable = f", {counts['unreadable']} unreadable" if counts["unreadable"] else ""
    found = counts.get("one_minus_found")
    if not isinstance(found, dict):
        return f"{turned}, {counts['certified']} of them certified{unreadable}"
    cost = "" if found["median"] is None else f" at a median 1 - SSIM of {found['median']:.1e}"
    return f"{turned}{cost}{unreadable}"


def _say(result: str, folder: Path) -> None:
    Console(soft_wrap=True, highlight=False).print(result, f"Outputs are in {folder}", sep="\n", markup=False)


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
