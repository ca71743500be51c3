"""What each task does of a valid configuration: a folder with a report, adversarial photographs and tables."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from percep.cli.info import info
from percep.errors import InputError
from percep.report import Facts, console_lines
from percep.report.common.verdict import lines_of, remarks, warnings
from percep.report.comparison.gallery import ComparisonGallery
from percep.report.comparison.page import save_comparison_report
from percep.report.comparison.tables import (
    ComparisonRow,
    accuracy,
    by_attack,
    save_curves,
    summary,
    table,
    write_comparison,
    write_comparison_summary,
)
from percep.runs.attack.outputs import merge
from percep.runs.attack.task import Campaign
from percep.runs.comparison.task import Compare
from percep.runs.config import AttackTask, CompareTask, Config, ExplainTask, InfoTask, MergeTask, MinimalTask
from percep.runs.engine.distributed import join
from percep.runs.engine.launch import several
from percep.runs.engine.manifest import is_free, recorded
from percep.runs.engine.progress import Screen
from percep.runs.study.outputs import merge_study
from percep.runs.study.task import StudyCampaign


def perform(config: Config, composed: DictConfig) -> None:
    """Does the task of a configuration, and prints what came of it.

    Args:
        config: valid.
        composed: by hydra; `config` is made of it.

    Raises:
        PercepError: what was asked for cannot be had.
        OSError: a file cannot be read or written.
    """
    if isinstance(config, CompareTask):
        _compare(config, composed)
    elif isinstance(config, InfoTask):
        _print(info(config))
    elif isinstance(config, MergeTask):
        _merge(Path(config.output))
    else:
        assert isinstance(config, AttackTask | MinimalTask | ExplainTask)
        _continue(config, composed)


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
    try:
        found = campaign()
    except KeyboardInterrupt as error:
        error.add_note(f"what is finished is in {folder}, and the same command with output={folder} continues")
        raise
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
    except KeyboardInterrupt as error:
        if rows:
            error.add_note(f"what is finished is in {folder}")
        raise
    finally:  # what was done before an interruption is kept
        if rows:
            write_comparison(folder / "compare.csv", rows)
            write_comparison_summary(folder / "summary.json", rows, config.seed, compare.classes)
            facts = _facts(composed, compare.photographs)
            page = folder / "report.html"
            save_comparison_report(page, facts, rows, gallery, config.compare.attacks, compare.classes)
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
        str(folder).encode()
    except UnicodeEncodeError as error:  # which Parquet's files need, and torch's store
        raise InputError(f"output folder {str(folder)!a} is not UTF-8: choose another with output=FOLDER") from error
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
        console=Screen(),
    )


def _say(result: str, folder: Path) -> None:
    _print(result, f"Outputs are in {folder}")


def _print(*lines: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"  # which may not have all characters of a folder's name
    print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding), flush=True)
