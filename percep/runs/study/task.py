"""task=explain over all its photographs, by one process or several, from where it was left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from percep import models
from percep.data.photographs import Source
from percep.data.shards import share
from percep.environment import code_digest, import_digest, weights_digest
from percep.errors import InputError, UnavailableError
from percep.models import Classifier
from percep.models.inference import for_inference
from percep.report import save_image
from percep.report.study.gallery import GALLERY_LIMIT, study_exhibits
from percep.runs.config import ExplainTask
from percep.runs.engine.atomic import atomic
from percep.runs.engine.batches import Batch
from percep.runs.engine.campaign import Campaign
from percep.runs.engine.distributed import Processes
from percep.runs.engine.launch import SharedError
from percep.runs.engine.manifest import Manifest, claim
from percep.runs.engine.progress import Tally
from percep.runs.engine.stage import Stage, Work
from percep.runs.engine.worker import Worker
from percep.runs.failures import network_failures
from percep.runs.inputs import photographs_of
from percep.runs.study.outputs import Pictured, VariantCheckpoints, checkpoints_of, merge_study
from percep.runs.study.passes import (
    MeasurementPass,
    ScreenedPhotograph,
    require_attributions,
    require_gradcam,
    screen_photographs,
)
from percep.runs.study.variants import Variant, variants_of
from percep.study import Measurements, PhotographEvidence
from percep.study.attributions import ATTRIBUTIONS, chosen_attributions
from percep.study.evidence import is_fooled
from percep.study.perturbations import require_baseline


class StudyCampaign(Campaign[ExplainTask]):
    """task=explain: whether perturbations fall on what the classifier looks at.

    Each variant's photographs are read twice, once to see which are classified correctly and where the network looks,
    once to be attacked and measured. The second stage begins when all processes are through with the first.

    Raises:
        InputError: also a setting that is not usable.
        UnavailableError: also a library that cannot be had here.
    """

    def __init__(self, config: ExplainTask, folder: Path) -> None:
        super().__init__(config, folder)
        require_gradcam(self.model, config.device)
        for name in config.study.baselines:  # an attack that is not installed, or is given too few gradients
            require_baseline(name, self.model, config.study.gradients)
        chosen_attributions(config.study.attributions)  # a path that leads nowhere
        self.variants = variants_of(config)
        self.passes = 2 * len(self.variants)

    def check(self) -> None:
        """Refuses attributions that fail.

        Raises:
            InputError: a function that raises an error, or returns no finite maps of the images' size.
        """
        require_attributions(self.model, self.config)

    def depends_on(self) -> dict[str, str]:
        """The code of attributions by import path."""
        own = (name for name in self.config.study.attributions if name not in ATTRIBUTIONS)
        return {f"code of attribution {path}": import_digest(path) for path in own}

    def work(self, worker: Worker) -> None:
        """Does what is left of every variant.

        Raises:
            SharedError: of the main variant, a target or a network that cannot be studied, fewer than two photographs
                that are classified correctly, or photographs that cannot be read to their end. A variant whose model
                cannot be had, or cannot be studied, is reported with its reason.
        """
        for variant in self.variants:
            self._variant(variant, worker)

    @classmethod
    def merge(cls, folder: Path) -> str:
        """See `Campaign.merge`."""
        return merge_study(folder)

    def _variant(self, variant: Variant, worker: Worker) -> None:
        checkpoints = checkpoints_of(self.folder, variant)
        before = worker.processes.count("done")
        worker.processes.first(lambda: checkpoints.problem.unlink(missing_ok=True))
        try:
            model, photographs = self._inputs(variant, checkpoints, worker.processes)
            worker.do(self._screening(variant, checkpoints, model, photographs))
            worker.do(self._measurement(variant, checkpoints, model, photographs))
        except SharedError as error:
            if variant.number == 0:
                raise
            problem = str(error)
            worker.processes.first(lambda: self._give_up(checkpoints, problem, before, worker.tally))

    def _give_up(self, checkpoints: VariantCheckpoints, problem: str, before: int, tally: Tally) -> None:
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
        with atomic(checkpoints.problem) as path:
            path.write_text(problem, encoding="utf-8", errors="backslashreplace")
        if tally.count is not None:  # both of the variant's stages will not be done
            planned = 2 * tally.count // self.passes
            tally.add_found(max(0, before + planned - tally.processes.count("done")), 0)

    def _inputs(
        self, variant: Variant, checkpoints: VariantCheckpoints, processes: Processes
    ) -> tuple[Classifier, Source]:
        """The model and the photographs of a variant.

        Raises:
            SharedError: why they cannot be had.
            InputError: weights or code that differ from those the variant was begun with.
        """
        if variant.source is None:
            return self.model, self.photographs
        source, loaded = variant.source, []

        def load() -> tuple[Classifier, Source]:
            model = models.load(variant.model, source=source, device=self.config.device)
            return model, photographs_of(self.config.data, model)

        def first() -> str | None:
            try:
                loaded.append(load())
            except (InputError, UnavailableError) as error:
                return str(error)
            checkpoints.folder.mkdir(parents=True, exist_ok=True)
            own = {f"weights of {variant.model}": weights_digest(loaded[0][0])}
            own[f"code of {variant.model}"] = code_digest(loaded[0][0].network)
            claim(checkpoints.folder, Manifest("", {}, own, len(self.photographs.shards), None))
            return None

        problem = processes.first(first)
        if problem is not None:
            raise SharedError(problem)
        return loaded[0] if loaded else load()

    def _screening(
        self, variant: Variant, checkpoints: VariantCheckpoints, model: Classifier, photographs: Source
    ) -> Stage:
        def begin() -> Work:
            fast = for_inference(model)

            def work(batch: Batch) -> list[tuple[ScreenedPhotograph]]:
                read = batch.read()
                with network_failures(model):
                    return [(one,) for one in screen_photographs(read, fast, self.config)]

            return work

        return Stage(
            photographs,
            checkpoints.screening,
            self.config.batch_size,
            begin,
            title=variant.name,
            unit="photographs screened",
            number=2 * variant.number + 1,
        )

    def _measurement(
        self, variant: Variant, checkpoints: VariantCheckpoints, model: Classifier, photographs: Source
    ) -> Stage:
        def begin() -> Work:
            measurement = self._measured(variant, checkpoints, model, len(photographs.shards))

            def work(batch: Batch) -> list[tuple[PhotographEvidence, Pictured]]:
                read = batch.read()
                with network_failures(model, read):
                    evidence, measured = measurement(batch.shard, batch.number, read)
                pictures = {} if variant.number else self._pictures(batch, measured)
                return [(one, pictures.get(one.name, Pictured())) for one in evidence]

            return work

        return Stage(
            photographs,
            checkpoints.measurement,
            self.config.batch_size,
            begin,
            ("status",),
            _fooled,
            title=variant.name,
            unit="photographs measured",
            number=2 * variant.number + 2,
        )

    def _measured(
        self, variant: Variant, checkpoints: VariantCheckpoints, model: Classifier, shards: int
    ) -> MeasurementPass:
        if len(checkpoints.screening.finished().shards) < shards:
            raise InputError(
                f"{checkpoints.screening.folder} lacks what other processes have written there: "
                "choose a folder that all of them share with output=FOLDER"
            )
        screened = ((shard, number, [one for (one,) in records]) for shard, number, records in checkpoints.screening)
        try:
            return MeasurementPass(self.config, variant, model, screened)
        except InputError as error:  # of all photographs, so that every process meets it
            raise SharedError(str(error)) from error

    def _pictures(self, batch: Batch, measured: Measurements | None) -> dict[str, Pictured]:
        """Saves the adversarial images of a batch, and encodes what the report will show of it."""
        if measured is None:
            return {}
        for name, image in zip(measured.names, measured.saved, strict=True):
            path = self.folder / "adversarial" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(path, image)
        quota = share(GALLERY_LIMIT, len(self.photographs.shards), batch.shard)
        shown = {photograph.name for photograph in batch.photographs[: max(0, quota - batch.first)]}
        free = {photograph.name for photograph in batch.photographs if photograph.label is None}
        exhibits = study_exhibits(measured, shown, self.model.category, free)
        return {name: Pictured(exhibit) for name, exhibit in exhibits.items()}


def _fooled(row: Mapping[str, Any]) -> bool:
    return is_fooled(row["status"])
