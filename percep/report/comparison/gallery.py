"""The pictures of a comparison: every photograph under every attack."""

from dataclasses import dataclass, field

from percep.attacks.comparison import Outcome
from percep.explain import ssim_maps
from percep.report.common.embedded import Layers, layers
from percep.report.common.panel import Prediction
from percep.report.comparison.tables import ComparedImages, ComparisonRow

GALLERY_LIMIT = 50
"""How many photographs have pictures, so that a page can be opened and sent."""


@dataclass(frozen=True)
class Version(Layers):
    """The pictures of a photograph under one attack, and what is written beside them.

    Attributes:
        row: of the photograph under the attack.
        outcome: of the attack.
        after: the prediction on the image shown.
    """

    row: ComparisonRow
    outcome: Outcome
    after: Prediction

    @property
    def adversarial(self) -> bool:
        """Whether the image shown is adversarial: otherwise it is the attack's answer, rounded."""
        return self.outcome.resaved_cost < float("inf")


@dataclass(frozen=True)
class ComparisonExhibit:
    """A photograph with its versions by attack.

    Attributes:
        before: the prediction on the original.
        target: the name of the class to be reached; None for an untargeted attack.
        versions: in the order they were added.
    """

    before: Prediction
    target: str | None
    versions: dict[str, Version] = field(default_factory=dict)


class ComparisonGallery:
    """Encodes what is added at once, so that no tensor need be kept, and of the first `GALLERY_LIMIT` photographs only.

    Attributes:
        exhibits: by the name of the photograph.
    """

    def __init__(self) -> None:
        self.exhibits: dict[str, ComparisonExhibit] = {}

    def add(self, row: ComparisonRow, images: ComparedImages | None) -> None:
        """Adds the pictures of one attack on one photograph, if there are any and there is room."""
        if row.outcome is None or images is None:
            return
        if row.name not in self.exhibits:
            if len(self.exhibits) == GALLERY_LIMIT:
                return
            self.exhibits[row.name] = ComparisonExhibit(images.before, images.target)
        ssim = ssim_maps(images.original[None], images.adversarial[None])[0]
        self.exhibits[row.name].versions[row.outcome.attack] = Version(
            **vars(layers(images.original, images.adversarial, ssim)), row=row, outcome=row.outcome, after=images.after
        )
