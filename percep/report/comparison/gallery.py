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
class ComparedPictures(Layers):
    """The pictures of a photograph under one attack, encoded: no tensor need be kept.

    Attributes:
        before: the prediction on the original.
        after: the prediction on the image shown.
        target: the name of the class to be reached; None for an untargeted attack.
    """

    before: Prediction
    after: Prediction
    target: str | None


def compared_pictures(images: ComparedImages) -> ComparedPictures:
    """Encodes the images of a photograph under one attack."""
    ssim = ssim_maps(images.original[None], images.adversarial[None])[0]
    encoded = layers(images.original, images.adversarial, ssim)
    return ComparedPictures(**vars(encoded), before=images.before, after=images.after, target=images.target)


@dataclass(frozen=True)
class Version(ComparedPictures):
    """The pictures of a photograph under one attack, and what is written beside them.

    Attributes:
        row: of the photograph under the attack.
        outcome: of the attack.
    """

    row: ComparisonRow
    outcome: Outcome

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
    """The pictures of the first `GALLERY_LIMIT` photographs.

    Attributes:
        exhibits: by the name of the photograph.
    """

    def __init__(self) -> None:
        self.exhibits: dict[str, ComparisonExhibit] = {}

    def add(self, row: ComparisonRow, pictures: ComparedPictures | None) -> None:
        """Adds the pictures of one attack on one photograph, if there are any and there is room."""
        if row.outcome is None or pictures is None:
            return
        if row.name not in self.exhibits:
            if len(self.exhibits) == GALLERY_LIMIT:
                return
            self.exhibits[row.name] = ComparisonExhibit(pictures.before, pictures.target)
        self.exhibits[row.name].versions[row.outcome.attack] = Version(**vars(pictures), row=row, outcome=row.outcome)
