"""What the parts of a study hold, and the tables and the report they become."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from percep.errors import InputError
from percep.report import Facts, read_image, save_summary
from percep.report.common.verdict import lines_of, progress, remarks, warnings
from percep.report.study.gallery import StudyExhibit
from percep.report.study.page import save_study_report
from percep.report.study.panels import (
    Choice,
    PanelRow,
    associations_of,
    chosen_photographs,
    rule,
    save_panels,
    stored_row,
)
from percep.report.study.paper import PAPER_TABLES, write_paper_table
from percep.report.study.plots import save_study_plots
from percep.report.study.tables import STUDY_TABLES, study_accuracy, summarise_study, write_study_table
from percep.runs.config import ExplainTask
from percep.runs.engine.atomic import atomic
from percep.runs.engine.checkpoints import Checkpoints
from percep.runs.engine.manifest import Manifest, read_manifest
from percep.runs.settings import validated
from percep.runs.study.passes import ScreenedPhotograph
from percep.runs.study.variants import Variant, claim_of, imagenet_first_class, inference_of, variants_of
from percep.study import Claim, Evidence, Findings, Inference, PhotographEvidence, VariantResult, analyse
from percep.study.evidence import with_current_names

Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Pictured:
    """The pictures of a photograph that the report will show; None where it will not."""

    exhibit: StudyExhibit | None = None


@dataclass(frozen=True)
class VariantCheckpoints:
    """What is done of a variant, in a folder of its own.

    Attributes:
        folder: made when the first part is written.
    """

    folder: Path

    @property
    def screening(self) -> Checkpoints:
        """The first pass, a row per photograph."""
        return Checkpoints(self.folder / "survey", (ScreenedPhotograph,))

    @property
    def measurement(self) -> Checkpoints:
        """The second pass, a row per photograph, and its pictures."""
        return Checkpoints(self.folder / "examination", (PhotographEvidence, Pictured))

    @property
    def problem(self) -> Path:
        """A file that says why the variant cannot be run; it is not there where it can."""
        return self.folder / "problem.txt"


def checkpoints_of(folder: Path, variant: Variant) -> VariantCheckpoints:
    """The parts of a variant of a study."""
    return VariantCheckpoints(folder / "parts" / f"{variant.number:02d}")


def main_variant(folder: Path) -> tuple[VariantResult, Claim, Inference]:
    """The main variant of a study as far as it was run, and by what it is tested.

    Raises:
        InputError: no study, or a damaged part.
    """
    manifest = read_manifest(folder)
    config = _config_of(manifest)
    return _variant(folder, variants_of(config)[0], manifest, {}), claim_of(config), inference_of(config)


def _config_of(manifest: Manifest) -> ExplainTask:
    return cast(ExplainTask, validated(OmegaConf.create(dict(manifest.settings))))


def merge_study(folder: Path) -> str:
    """Writes the tables, `plots.png`, `panels.png`, `summary.json` and `report.html` of all that a study has finished.

    On request there are also `plots.pdf`, `panels.pdf` and, in `tables`, those over photographs in LaTeX.

    The block means of the main variant's photographs are held, and those of one other variant at a time. Each file is
    written whole or stays as it was.

    Args:
        folder: of a run of task=explain, finished or not.

    Returns:
        The verdict, a sentence per criterion, and what is to be said of labels, accuracy and an interruption.

    Raises:
        InputError: no study, a damaged part, or no photograph of the main variant that was fooled.
        OSError: a file cannot be written.
    """
    manifest = read_manifest(folder)
    config = _config_of(manifest)
    first, *others = variants_of(config)
    exhibits: dict[str, StudyExhibit] = {}
    main = _variant(folder, first, manifest, exhibits)
    if not main.fooled:
        raise InputError("no photograph was fooled, so there is nothing to explain: allow more with ball.mean")
    variants = chain([main], (_variant(folder, variant, manifest, exhibits) for variant in others))
    findings = analyse(
        variants,
        claim_of(config),
        config.study.shares,
        inference_of(config),
        config.study.strata,
        imagenet_first_class(config.model, manifest.classes),
    )
    figures = _figures(folder, findings, main.evidence, exhibits)
    outputs = _outputs(folder, manifest, findings, exhibits) | figures
    if config.report.vector:
        outputs |= _for_a_paper(folder, findings, figures)
    for path, write in outputs.items():
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as temporary:
            write(temporary)
    known = study_accuracy(findings, manifest.classes)
    done = _progress(findings, manifest.photographs)
    sentences = [findings.verdict, *(criterion.sentence for criterion in findings.criteria), *remarks(known), done]
    return lines_of(sentences, warnings(known))


def _progress(findings: Findings, planned: int | None) -> str:
    return progress({"images": findings.done, "planned": _planned(findings) if planned is None else planned})


def _planned(findings: Findings) -> int:
    return sum(name not in findings.missing for name in findings.statuses)


def _outputs(
    folder: Path, manifest: Manifest, findings: Findings, exhibits: Mapping[str, StudyExhibit]
) -> dict[Path, Writer]:
    planned = _planned(findings) if manifest.photographs is None else manifest.photographs
    facts = Facts(manifest.command, manifest.settings, planned)
    tables = {
        folder / f"{name}.csv": lambda path, name=name: write_study_table(path, name, findings) for name in STUDY_TABLES
    }
    return {
        **tables,
        folder / "summary.json": lambda path: save_summary(
            path, summarise_study(findings, manifest.classes), manifest.settings["seed"]
        ),
        folder / "report.html": lambda path: save_study_report(path, facts, findings, exhibits, manifest.classes),
    }


def _figures(
    folder: Path, findings: Findings, evidence: Evidence, exhibits: Mapping[str, StudyExhibit]
) -> dict[Path, Writer]:
    associations = associations_of(findings)
    rows = list(_panel_rows(folder, chosen_photographs(associations), evidence, exhibits))
    described = rule(findings.claim, len(associations))
    figures: dict[Path, Writer] = {folder / "plots.png": lambda path: save_study_plots(path, findings)}
    if rows:
        figures[folder / "panels.png"] = lambda path: save_panels(path, rows, described)
    return figures


def _panel_rows(
    folder: Path, choices: Sequence[Choice], evidence: Evidence, exhibits: Mapping[str, StudyExhibit]
) -> Iterator[PanelRow]:
    for choice in choices:
        path = folder / "adversarial" / f"{choice.name}.png"
        if path.is_file():  # it may have been removed since
            yield stored_row(choice, evidence, exhibits.get(choice.name), read_image(path))


def _for_a_paper(folder: Path, findings: Findings, figures: Mapping[Path, Writer]) -> dict[Path, Writer]:
    """The figures as vectors, and the tables in LaTeX."""
    tables: dict[Path, Writer] = {
        folder / "tables" / f"{name}.tex": partial(write_paper_table, name=name, findings=findings)
        for name in PAPER_TABLES
    }
    return {path.with_suffix(".pdf"): write for path, write in figures.items()} | tables


def _variant(folder: Path, variant: Variant, manifest: Manifest, exhibits: dict[str, StudyExhibit]) -> VariantResult:
    """A variant as far as it was run, and into `exhibits` its pictures."""
    checkpoints = checkpoints_of(folder, variant)
    if checkpoints.problem.is_file():
        return VariantResult(variant.name, variant.model, problem=checkpoints.problem.read_text(encoding="utf-8"))
    statuses: dict[str, str] = {}
    labelled: dict[str, bool] = {}
    missing: dict[str, int] = {}
    for _, rows in checkpoints.screening.columns(["name", "status", "labelled", "missing"]):
        statuses |= {row["name"]: row["status"] for row in rows}
        labelled |= {row["name"]: row["labelled"] for row in rows if row["labelled"] is not None}
        missing |= {row["name"]: row["missing"] for row in rows if row["missing"]}

    def measured() -> Iterator[PhotographEvidence]:
        for _, _, records in checkpoints.measurement:
            for stored, pictured in records:
                photograph = with_current_names(stored)
                statuses[photograph.name] = photograph.status
                if pictured.exhibit is not None:
                    exhibits[photograph.name] = pictured.exhibit
                yield photograph

    evidence = Evidence.of(measured())
    complete = len(checkpoints.measurement.finished().shards) == manifest.shards
    return VariantResult(
        variant.name, variant.model, evidence, statuses, complete=complete, labelled=labelled, missing=missing
    )
