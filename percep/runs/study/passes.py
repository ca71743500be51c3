"""The two passes of a variant over photographs: where the network looks in each, then each attacked and measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from percep.data.photographs import Photograph
from percep.errors import InputError
from percep.explain import another_images, block_means, cascade, gradcam
from percep.models import Classifier
from percep.models.inference import for_inference
from percep.runs.config import ExplainTask
from percep.runs.failures import network_failures
from percep.runs.inputs import predict, screen, stable_seed
from percep.runs.study.variants import Variant
from percep.study.attributions import ATTRIBUTIONS, chosen_attributions
from percep.study.evidence import BlockMap, PhotographEvidence, photograph_evidence
from percep.study.findings import PENDING
from percep.study.measurement import Measurements, measure


@dataclass(frozen=True)
class ScreenedPhotograph:
    """What the first pass finds of one photograph.

    Attributes:
        name: of the photograph.
        status: why it is not attacked, or `PENDING`. What follows is known of those that are pending only.
        label, target: class indices; the model's prediction where no label was given, no target where none is asked
            for.
        labelled: whether a label was given; known of all that the model has a finite prediction of.
        attention: block means of Grad-CAM.
        missing: how many labels without a photograph stand here instead of one.
    """

    name: str
    status: str
    label: int | None = None
    target: int | None = None
    attention: BlockMap | None = None
    labelled: bool | None = None
    missing: int = 0


def require_gradcam(model: Classifier, device: str) -> None:
    """Refuses a model that a study cannot be made of, before anything is computed.

    Raises:
        InputError: the network has no layer for Grad-CAM.
    """
    assert model.preprocessing is not None  # a loaded model has one
    side = model.preprocessing.crop
    blank = torch.zeros(1, model.mean.shape[1], side, side, device=device)
    try:
        gradcam(model, blank, torch.zeros(1, dtype=torch.int64, device=device))
    except InputError as error:
        raise InputError(f"task=explain needs Grad-CAM: {error}") from error


def require_attributions(model: Classifier, config: ExplainTask) -> None:
    """Tries attributions of one's own on noise: on two images, or on one where that is a batch.

    Raises:
        InputError: a function that raises an error, or returns no finite maps of the images' size.
    """
    own = {
        name: one for name, one in chosen_attributions(config.study.attributions).items() if name not in ATTRIBUTIONS
    }
    if not own:
        return
    assert model.preprocessing is not None  # a loaded model has one
    side = model.preprocessing.crop
    count = min(2, config.batch_size)
    noise = torch.rand(count, model.mean.shape[1], side, side, generator=torch.Generator().manual_seed(config.seed))
    images = noise.to(config.device)
    with network_failures(model):
        labels = predict(model, images).classes.clamp_min(0)
    for attribution in own.values():
        attribution.maps(model, images, labels, config.study.integration)


def screen_photographs(
    photographs: Iterable[Photograph], model: Classifier, config: ExplainTask
) -> list[ScreenedPhotograph]:
    """The first pass over photographs, which are screened one by one.

    Raises:
        InputError: a target that is not a class, or a network without a layer for Grad-CAM.
    """
    return [_screened(photograph, model, config) for photograph in photographs]


def _screened(photograph: Photograph, model: Classifier, config: ExplainTask) -> ScreenedPhotograph:
    screened = screen(photograph, model, config, config.attack.target)
    labelled = None if screened.label is None else photograph.label is not None
    if screened.status is not None:
        return ScreenedPhotograph(photograph.name, screened.status, labelled=labelled, missing=photograph.missing)
    assert screened.image is not None and screened.label is not None
    blocks = block_means(gradcam(model, screened.image, screened.label), config.study.block)[0]
    target = None if screened.target is None else int(screened.target)
    return ScreenedPhotograph(photograph.name, PENDING, int(screened.label), target, BlockMap.of(blocks), labelled)


class MeasurementPass:
    """The second pass.

    Which other photograph's Grad-CAM a photograph is compared with, and the randomised networks, depend on the seed and
    on the whole screening pass; what comes of a batch depends on these and on the batch. So neither the number of
    processes nor the variants and batches before matter.

    Args:
        config: of the study.
        variant: what is measured.
        model: of the variant, on the configuration's device.
        screened: shard, batch and what the first pass found, of all photographs, in order.

    Raises:
        InputError: fewer than two photographs to attack.
    """

    def __init__(
        self,
        config: ExplainTask,
        variant: Variant,
        model: Classifier,
        screened: Iterable[tuple[int, int, Sequence[ScreenedPhotograph]]],
    ) -> None:
        self.config, self.variant, self.model = config, variant, for_inference(model)
        self.screened: dict[tuple[int, int], tuple[int, list[ScreenedPhotograph]]] = {}
        blocks: list[Tensor] = []
        count = 0
        for shard, number, found in screened:
            self.screened[shard, number] = len(blocks), [replace(one, attention=None) for one in found]
            blocks += [torch.tensor(one.attention.array()) for one in found if one.attention is not None]
            count += sum(not one.missing for one in found)
        if len(blocks) < 2:
            raise InputError(
                f"a study compares photographs: it needs two that {variant.model} classifies correctly, "
                f"or without a label, found {len(blocks)} of {count}"
            )
        generator = torch.Generator().manual_seed(config.seed)
        self.another = another_images(torch.stack(blocks), generator)
        stages = cascade(model, generator, config.study.stages) if variant.depth.full else ()
        self.randomised = [for_inference(cast(Classifier, twin)) for _, twin in stages]

    def __call__(
        self, shard: int, number: int, photographs: Sequence[Photograph]
    ) -> tuple[list[PhotographEvidence], Measurements | None]:
        """Measures a batch.

        Args:
            shard, number: of the batch.
            photographs: all of the batch.

        Returns:
            The evidence of each photograph, and the measurements of those that were fooled; None if none was.

        Raises:
            InputError: what an attack or a map says of the model.
            UnavailableError: a library that cannot be had here.
        """
        first, screened = self.screened[shard, number]
        pending = [place for place, one in enumerate(screened) if one.status == PENDING]
        another = dict(zip(pending, self.another[first : first + len(pending)], strict=True))
        evidence = [
            PhotographEvidence(photograph.name, one.status)
            for photograph, one in zip(photographs, screened, strict=True)
        ]
        attacked = []
        for place in pending:
            if photographs[place].image is None:  # it was there a moment ago
                evidence[place] = replace(evidence[place], status=str(photographs[place].problem))
            else:
                attacked.append(place)
        if not attacked:
            return evidence, None
        measured = self._measured(
            [photographs[place] for place in attacked],
            [screened[place] for place in attacked],
            torch.stack([another[place] for place in attacked]),
            stable_seed(photographs[0].name, self.config.seed),
        )
        fooled = (
            {}
            if measured is None
            else {one.name: one for one in photograph_evidence(measured, self.config.study.block)}
        )
        for place in attacked:
            name = photographs[place].name
            evidence[place] = fooled.get(name, PhotographEvidence(name, "not_found"))
        return evidence, measured

    def _measured(
        self, photographs: Sequence[Photograph], known: Sequence[ScreenedPhotograph], another: Tensor, seed: int
    ) -> Measurements | None:
        torch.manual_seed(seed)  # of other libraries' attacks
        targets = [one.target for one in known if one.target is not None]
        return measure(
            self.model,
            self.variant.setting,
            self.variant.depth,
            [photograph.name for photograph in photographs],
            torch.stack([photograph.image for photograph in photographs if photograph.image is not None]).to(
                self.config.device
            ),
            self._integers([one.label for one in known if one.label is not None]),
            self._integers(targets) if targets else None,
            another.to(self.config.device),
            self.randomised,
            torch.Generator().manual_seed(seed),
        )

    def _integers(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.config.device)
