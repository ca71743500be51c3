"""What the parts of a study hold, and the tables and the report they become."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from percep.errors import InputError
from percep.report import Facts, save_summary
from percep.report.common.verdict import lines_of, progress, remarks, warnings
from percep.report.study.gallery import StudyExhibit
from percep.report.study.page import save_study_report
from percep.report.study.plots import save_study_plots
from percep.report.study.tables import STUDY_TABLES, study_accuracy, summarise_study, write_study_table
from percep.runs.config import ExplainTask
from percep.runs.engine.atomic import whole
from percep.runs.engine.checkpoints import Parts
from percep.runs.engine.manifest import Record, recorded
from percep.runs.settings import validated
from percep.runs.study.passes import Surveyed
from percep.runs.study.variants import Plan, claim_of, inference_of, plans_of
from percep.study import Evidence, Findings, PhotographEvidence, VariantResult, analyse
from percep.study.evidence import with_current_names


@dataclass(frozen=True)
class Pictured:
    """The pictures of a photograph that the report will show; None where it will not."""

    exhibit: StudyExhibit | None = None


@dataclass(frozen=True)
class VariantParts:
    """What is done of a variant, in a folder of its own.

    Attributes:
        folder: made when the first part is written.
    """

    folder: Path

    @property
    def survey(self) -> Parts:
        """The first pass, a row per photograph."""
        return Parts(self.folder / "survey", (Surveyed,))

    @property
    def examination(self) -> Parts:
        """The second pass, a row per photograph, and its pictures."""
        return Parts(self.folder / "examination", (PhotographEvidence, Pictured))

    @property
    def problem(self) -> Path:
        """A file that says why the variant cannot be run; it is not there where it can."""
        return self.folder / "problem.txt"


def parts_of(folder: Path, plan: Plan) -> VariantParts:
    """The parts of a variant of a study."""
    return VariantParts(folder / "parts" / f"{plan.number:02d}")


def merge_study(folder: Path) -> str:
    """Writes the tables, `plots.png`, `summary.json` and `report.html` of all that a study has finished.

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
    record = recorded(folder)
    config = cast(ExplainTask, validated(OmegaConf.create(_current_settings(record.settings))))
    first, *others = plans_of(config)
    exhibits: dict[str, StudyExhibit] = {}
    main = _variant(folder, first, record, exhibits)
    if not main.fooled:
        raise InputError("no photograph was fooled, so there is nothing to explain: allow more with ball.mean")
    variants = chain([main], (_variant(folder, plan, record, exhibits) for plan in others))
    findings = analyse(variants, claim_of(config), config.study.shares, inference_of(config))
    for path, write in _outputs(folder, record, findings, exhibits).items():
        with whole(path) as temporary:
            write(temporary)
    known = study_accuracy(findings, record.classes)
    done = _progress(findings, record.photographs)
    sentences = [findings.verdict, *(criterion.sentence for criterion in findings.criteria), *remarks(known), done]
    return lines_of(sentences, warnings(known))


def _current_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run folder of any version: `study.baselines` was `study.rivals`."""
    study = {"baselines" if name == "rivals" else name: value for name, value in settings.get("study", {}).items()}
    return {**settings, "study": study}


def _progress(findings: Findings, planned: int | None) -> str:
    return progress({"images": findings.done, "planned": _planned(findings) if planned is None else planned})


def _planned(findings: Findings) -> int:
    return sum(name not in findings.missing for name in findings.statuses)


def _outputs(
    folder: Path, record: Record, findings: Findings, exhibits: Mapping[str, StudyExhibit]
) -> dict[Path, Callable[[Path], None]]:
    planned = _planned(findings) if record.photographs is None else record.photographs
    facts = Facts(record.command, record.settings, planned)
    tables = {
        folder / f"{name}.csv": lambda path, name=name: write_study_table(path, name, findings) for name in STUDY_TABLES
    }
    return {
        **tables,
        folder / "summary.json": lambda path: save_summary(
            path, summarise_study(findings, record.classes), record.settings["seed"]
        ),
        folder / "plots.png": lambda path: save_study_plots(path, findings),
        folder / "report.html": lambda path: save_study_report(path, facts, findings, exhibits, record.classes),
    }


def _variant(folder: Path, plan: Plan, record: Record, exhibits: dict[str, StudyExhibit]) -> VariantResult:
    """A variant as far as it was run, and into `exhibits` its pictures."""
    parts = parts_of(folder, plan)
    if parts.problem.is_file():
        return VariantResult(plan.name, plan.model, problem=parts.problem.read_text(encoding="utf-8"))
    statuses: dict[str, str] = {}
    labelled: dict[str, bool] = {}
    missing: dict[str, int] = {}
    for _, rows in parts.survey.columns(["name", "status", "labelled", "missing"]):
        statuses |= {row["name"]: row["status"] for row in rows}
        labelled |= {row["name"]: row["labelled"] for row in rows if row["labelled"] is not None}
        missing |= {row["name"]: row["missing"] for row in rows if row["missing"]}

    def examined() -> Iterator[PhotographEvidence]:
        for _, _, records in parts.examination:
            for stored, pictured in records:
                kept = with_current_names(stored)
                statuses[kept.name] = kept.status
                if pictured.exhibit is not None:
                    exhibits[kept.name] = pictured.exhibit
                yield kept

    evidence = Evidence.of(examined())
    complete = len(parts.examination.finished().shards) == record.shards
    return VariantResult(
        plan.name, plan.model, evidence, statuses, complete=complete, labelled=labelled, missing=missing
    )
