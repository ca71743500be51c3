"""task=explain over all its photographs, by one process or several, from where it was left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from percep import models
from percep.attacks.comparison import contender
from percep.data.photographs import Source
from percep.data.shards import share
from percep.environment import code_digest, weights_digest
from percep.errors import InputError, UnavailableError
from percep.models import Classifier
from percep.report import save_image
from percep.report.study.gallery import GALLERY_LIMIT, study_exhibits
from percep.runs.config import ExplainTask
from percep.runs.engine.atomic import whole
from percep.runs.engine.batches import Batch
from percep.runs.engine.campaign import Campaign
from percep.runs.engine.distributed import Processes
from percep.runs.engine.launch import SharedError
from percep.runs.engine.manifest import Record, claim
from percep.runs.engine.progress import Tally
from percep.runs.engine.stage import Stage, Work
from percep.runs.engine.worker import Worker
from percep.runs.failures import network_failures
from percep.runs.inputs import photographs_of
from percep.runs.study.outputs import Pictured, VariantParts, merge_study, parts_of
from percep.runs.study.passes import Examination, Surveyed, require_gradcam, survey
from percep.runs.study.variants import Plan, plans_of
from percep.study import Measurements, PhotographEvidence
from percep.study.evidence import is_fooled


class StudyCampaign(Campaign[ExplainTask]):
    """task=explain: whether perturbations fall on what the classifier looks at.

    Each variant's photographs are read twice, once to see which are classified correctly and where the network looks,
    once to be attacked and examined. The second stage begins when all processes are through with the first.

    Raises:
        InputError: also a setting that is not usable.
        UnavailableError: also a library that cannot be had here.
    """

    def __init__(self, config: ExplainTask, folder: Path) -> None:
        super().__init__(config, folder)
        require_gradcam(self.model, config.device)
        for name in config.study.rivals:  # an attack that is not installed, or is given too few gradients
            contender(name, self.model, config.study.gradients)
        self.plans = plans_of(config)
        self.passes = 2 * len(self.plans)

    def work(self, worker: Worker) -> None:
        """Does what is left of every variant.

        Raises:
            SharedError: of the main variant, a target or a network that cannot be studied, fewer than two photographs
                that are classified correctly, or photographs that cannot be read to their end. A variant whose model
                cannot be had, or cannot be studied, is reported with its reason.
        """
        for plan in self.plans:
            self._variant(plan, worker)

    @staticmethod
    def merge(folder: Path) -> str:
        """See `Campaign.merge`."""
        return merge_study(folder)

    def _variant(self, plan: Plan, worker: Worker) -> None:
        parts = parts_of(self.folder, plan)
        before = worker.processes.count("done")
        worker.processes.first(lambda: parts.problem.unlink(missing_ok=True))
        try:
            model, photographs = self._subjects(plan, parts, worker.processes)
            worker.do(self._survey(plan, parts, model, photographs))
            worker.do(self._examination(plan, parts, model, photographs))
        except SharedError as error:
            if plan.number == 0:
                raise
            problem = str(error)
            worker.processes.first(lambda: self._give_up(parts, problem, before, worker.tally))

    def _give_up(self, parts: VariantParts, problem: str, before: int, tally: Tally) -> None:
        parts.folder.mkdir(parents=True, exist_ok=True)
        with whole(parts.problem) as path:
            path.write_text(problem, encoding="utf-8", errors="backslashreplace")
        if tally.count is not None:  # both of the variant's stages will not be done
            planned = 2 * tally.count // self.passes
            tally.add_found(max(0, before + planned - tally.processes.count("done")), 0)

    def _subjects(self, plan: Plan, parts: VariantParts, processes: Processes) -> tuple[Classifier, Source]:
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
            claim(parts.folder, Record("", {}, own, len(self.photographs.shards), None))
            return None

        problem = processes.first(first)
        if problem is not None:
            raise SharedError(problem)
        return loaded[0] if loaded else load()

    def _survey(self, plan: Plan, parts: VariantParts, model: Classifier, photographs: Source) -> Stage:
        def work(batch: Batch) -> list[tuple[Surveyed]]:
            read = batch.read()
            with network_failures(model):
                return [(one,) for one in survey(read, model, self.config)]

        return Stage(photographs, parts.survey, self.config.batch_size, lambda: work, title=plan.name)

    def _examination(self, plan: Plan, parts: VariantParts, model: Classifier, photographs: Source) -> Stage:
        def begin() -> Work:
            examination = self._examined(plan, parts, model, len(photographs.shards))

            def work(batch: Batch) -> list[tuple[PhotographEvidence, Pictured]]:
                read = batch.read()
                with network_failures(model, read):
                    kept, examined = examination(batch.shard, batch.number, read)
                pictures = {} if plan.number else self._pictures(batch, examined)
                return [(one, pictures.get(one.name, Pictured())) for one in kept]

            return work

        size = self.config.batch_size
        return Stage(photographs, parts.examination, size, begin, ("status",), _fooled, plan.name)

    def _examined(self, plan: Plan, parts: VariantParts, model: Classifier, shards: int) -> Examination:
        if len(parts.survey.finished().shards) < shards:
            raise InputError(
                f"{parts.survey.folder} lacks what other processes have written there: "
                "choose a folder that all of them share with output=FOLDER"
            )
        surveyed = ((shard, number, [one for (one,) in records]) for shard, number, records in parts.survey)
        try:
            return Examination(self.config, plan, model, surveyed)
        except InputError as error:  # of all photographs, so that every process meets it
            raise SharedError(str(error)) from error

    def _pictures(self, batch: Batch, examined: Measurements | None) -> dict[str, Pictured]:
        """Saves the adversarial images of a batch, and encodes what the report will show of it."""
        if examined is None:
            return {}
        for name, image in zip(examined.names, examined.saved, strict=True):
            path = self.folder / "adversarial" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(path, image)
        quota = share(GALLERY_LIMIT, len(self.photographs.shards), batch.shard)
        shown = {photograph.name for photograph in batch.photographs[: max(0, quota - batch.first)]}
        free = {photograph.name for photograph in batch.photographs if photograph.label is None}
        exhibits = study_exhibits(examined, shown, self.model.category, free)
        return {name: Pictured(exhibit) for name, exhibit in exhibits.items()}


def _fooled(row: Mapping[str, Any]) -> bool:
    return is_fooled(row["status"])
