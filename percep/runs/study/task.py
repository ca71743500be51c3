"""task=explain over all its photographs, by one process or several, from where it was left."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from percep import models
from percep.attacks.comparison import named_attack
from percep.data.photographs import Source
from percep.data.shards import share
from percep.environment import code_digest, provenance, weights_digest
from percep.errors import InputError, PercepError, UnavailableError
from percep.models import Classifier
from percep.models.classifier import number_of_logits
from percep.report import save_image
from percep.report.study.gallery import GALLERY_LIMIT, study_exhibits
from percep.runs.config import ExplainTask
from percep.runs.engine.atomic import whole
from percep.runs.engine.batches import Batch, Finished
from percep.runs.engine.checkpoints import Parts
from percep.runs.engine.distributed import Processes
from percep.runs.engine.launch import SharedError
from percep.runs.engine.manifest import Record, claim
from percep.runs.engine.progress import Tally
from percep.runs.engine.run import run
from percep.runs.engine.worker import count_finished, drive, mending
from percep.runs.failures import network_failures
from percep.runs.inputs import load_subjects, photographs_of
from percep.runs.study.outputs import Pictured, VariantParts, merge_study, parts_of
from percep.runs.study.passes import Examination, require_gradcam, survey
from percep.runs.study.variants import Plan, plans_of
from percep.runs.task import Request
from percep.study import Measurements, PhotographEvidence
from percep.study.evidence import is_fooled


def explain(config: ExplainTask, request: Request) -> Sequence[str]:
    """task=explain: whether perturbations fall on what the classifier looks at."""
    return run(StudyCampaign, config, request)


class StudyCampaign:
    """A study in its folder, which it continues if it was begun.

    Each variant's photographs are read twice, once to see which are classified correctly and where the network looks,
    once to be attacked and examined. The second pass begins when all processes are through with the first.

    Args:
        config: what to study, and how; `device` is this process's.
        folder: empty, or of the same run.
        processes: which share the run.
        request: of the command line.

    Raises:
        InputError: a model, checkpoint, device, path, label or setting that is not usable, or a folder of another run.
        UnavailableError: weights, libraries or a device of the main variant that cannot be had here.
    """

    def __init__(
        self,
        config: ExplainTask,
        folder: Path,
        processes: Processes,
        request: Request,
    ) -> None:
        self.config, self.folder, self.processes = config, folder, processes
        self.model, self.photographs = processes.in_turn(lambda: load_subjects(config))
        processes.in_turn(lambda: require_gradcam(self.model, config.device))
        self.plans = processes.in_turn(self._checked_plans)
        self.shards = len(self.photographs.shards)
        passes = 2 * len(self.plans)
        self.tally = Tally(processes, config.task, passes * self.shards)
        self.tally.lasting = False
        self.planned = processes.first(lambda: self._claim(request))
        self.tally.count = None if self.planned is None else passes * self.planned

    def __call__(self) -> str:
        """Does what is left, and merges the parts; what was done before an interruption is merged as well.

        Returns:
            What `percep.runs.study.outputs.merge_study` says.

        Raises:
            SharedError: of the main variant, a target or a network that cannot be studied, fewer than two photographs
                that are classified correctly, or photographs that cannot be read to their end. A variant whose model
                cannot be had, or cannot be studied, is reported with its reason.
            InputError: no photograph of the main variant was fooled.
        """
        try:
            for plan in self.plans:
                self._run(plan)
        except BaseException:
            if self.processes.world == 1:
                self._merge_if_possible()
            raise
        self.tally.title, self.tally.lasting = self.config.task, True
        with self.tally.shown():
            pass
        return self.processes.first(lambda: merge_study(self.folder))

    def _merge_if_possible(self) -> None:
        try:
            merge_study(self.folder)
        except (OSError, PercepError):  # a full disk, perhaps, or nothing was fooled yet: what is raised says why
            return

    def _checked_plans(self) -> list[Plan]:
        for name in self.config.study.baselines:  # an attack that is not installed, or is given too few gradients
            named_attack(name, self.model, self.config.study.gradients)
        return plans_of(self.config)

    def _claim(self, request: Request) -> int | None:
        known = self.photographs.inventory()
        classes = number_of_logits(self.model)
        depends = provenance(self.model, known.digest, self.config.device, self.config.model.network)
        claim(self.folder, Record(request.command, request.settings, depends, self.shards, known.count, classes))
        return known.entries

    def _run(self, plan: Plan) -> None:
        parts = parts_of(self.folder, plan)
        before = self.processes.count("done")
        self.tally.title = f"{self.config.task}: {plan.name}"
        self.processes.first(lambda: parts.problem.unlink(missing_ok=True))
        try:
            model, photographs = self._subjects(plan, parts)
            self._survey(parts, model, photographs)
            self._examine(plan, parts, model, photographs)
        except SharedError as error:
            if plan.number == 0:
                raise
            problem = str(error)
            self.processes.first(lambda: self._give_up(parts, problem, before))

    def _give_up(self, parts: VariantParts, problem: str, before: int) -> None:
        parts.folder.mkdir(parents=True, exist_ok=True)
        with whole(parts.problem) as path:
            path.write_text(problem, encoding="utf-8", errors="backslashreplace")
        if self.planned is not None:
            self.tally.add_found(max(0, before + 2 * self.planned - self.processes.count("done")), 0)

    def _subjects(self, plan: Plan, parts: VariantParts) -> tuple[Classifier, Source]:
        """The model and the photographs of a variant.

        Raises:
            SharedError: why they cannot be had.
            InputError: weights or code that differ from those the variant was begun with.
        """
        if plan.source is None:
            return self.model, self.photographs
        source, loaded = plan.source, []

        def load() -> tuple[Classifier, Source]:
            model = models.load(plan.model, source=source, device=self.config.device)
            return model, photographs_of(self.config.data, model)

        def first() -> str | None:
            try:
                loaded.append(load())
            except (InputError, UnavailableError) as error:
                return str(error)
            parts.folder.mkdir(parents=True, exist_ok=True)
            own = {f"weights of {plan.model}": weights_digest(loaded[0][0])}
            own[f"code of {plan.model}"] = code_digest(loaded[0][0].network)
            claim(parts.folder, Record("", {}, own, self.shards, self.planned))
            return None

        problem = self.processes.first(first)
        if problem is not None:
            raise SharedError(problem)
        return loaded[0] if loaded else load()

    def _survey(self, parts: VariantParts, model: Classifier, photographs: Source) -> None:
        def work(batch: Batch) -> tuple[list[tuple[Any, ...]], int]:
            photographs = batch.read()
            with network_failures(model):
                return [(one,) for one in survey(photographs, model, self.config)], 0

        self._drive(photographs, parts.survey, self._finished(parts.survey), work)

    def _examine(self, plan: Plan, parts: VariantParts, model: Classifier, photographs: Source) -> None:
        finished = self._finished(parts.examination)
        if len(finished.shards) == self.shards:
            return
        if len(parts.survey.finished().shards) < self.shards:
            raise InputError(
                f"{parts.survey.folder} lacks what other processes have written there: "
                "choose a folder that all of them share with output=FOLDER"
            )
        surveyed = ((shard, number, [one for (one,) in records]) for shard, number, records in parts.survey)
        try:
            examination = Examination(self.config, plan, model, surveyed)
        except InputError as error:  # of all photographs, so that every process meets it
            raise SharedError(str(error)) from error

        def work(batch: Batch) -> tuple[list[tuple[Any, ...]], int]:
            photographs = batch.read()
            with network_failures(model, photographs):
                kept, examined = examination(batch.shard, batch.number, photographs)
            pictures = {} if plan.number else self._pictures(batch, examined)
            return [(one, pictures.get(one.name, Pictured())) for one in kept], _fooled(kept)

        self._drive(photographs, parts.examination, finished, work)

    def _pictures(self, batch: Batch, examined: Measurements | None) -> dict[str, Pictured]:
        """Saves the adversarial images of a batch, and encodes what the report will show of it."""
        if examined is None:
            return {}
        for name, image in zip(examined.names, examined.saved, strict=True):
            path = self.folder / "adversarial" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(path, image)
        quota = share(GALLERY_LIMIT, self.shards, batch.shard)
        shown = {photograph.name for photograph in batch.photographs[: max(0, quota - batch.first)]}
        free = {photograph.name for photograph in batch.photographs if photograph.label is None}
        exhibits = study_exhibits(examined, shown, self.model.category, free)
        return {name: Pictured(exhibit) for name, exhibit in exhibits.items()}

    def _finished(self, parts: Parts) -> Finished:
        """What is finished of a pass, which is counted."""
        return self.processes.first(
            lambda: count_finished(parts, self.tally, ["status"], lambda row: is_fooled(row["status"]))
        )

    def _drive(
        self,
        photographs: Source,
        parts: Parts,
        finished: Finished,
        work: Callable[[Batch], tuple[Sequence[tuple[Any, ...]], int]],
    ) -> None:
        problems = drive(work, photographs, self.config, finished, parts, self.tally)
        if problems:
            raise SharedError(mending(problems))


def _fooled(kept: Sequence[PhotographEvidence]) -> int:
    return sum(is_fooled(one.status) for one in kept)
