"""A network with its normalisation, its classes and its preprocessing."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from percep.errors import InputError
from percep.models.classes import imagenet_categories, imagenet_wordnet_ids
from percep.models.preprocessing import Preprocessing
from percep.validation.logits import logits_of


class Classifier(nn.Module):
    """A network with its normalisation: `(B, C, H, W)` images in `[0, 1]` to `(B, K)` logits.

    Args:
        network: maps normalised images to logits, or to a tuple, mapping or object that holds them: see
            `percep.validation.logits.logits_of`.
        mean: per channel, subtracted from the images; 0 where the network normalises them itself.
        std: per channel, divides the images after that; 1 where the network normalises them itself.
        categories: the class names in the order of the logits, from `first_class` on, where they are known.
        first_class: index of the first class; logits before it are no classes, as the background class of networks
            that were trained with TensorFlow.
        preprocessing: how a photograph becomes an input, where it is known.
        layer: dotted name, inside `network`, of its last convolutional stage, where it is known.

    Attributes:
        categories: the names of all K logits, "background" before the first class.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        categories: Sequence[str] | None = None,
        first_class: int = 0,
        preprocessing: Preprocessing | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.first_class = first_class
        self.categories = None if categories is None else ("background",) * first_class + tuple(categories)
        self.preprocessing = preprocessing
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` of floating-point images `(B, C, H, W)` in `[0, 1]`.

        Raises:
            InputError: images of another shape, number of channels or type, or a network that does not return logits.
        """
        channels = self.mean.shape[1]
        if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise InputError(
                f"the classifier takes floating-point (B, {channels}, H, W) images, "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        return logits_of(self.network((images - self.mean) / self.std), images)

    def category(self, index: int) -> str:
        """Name of a class; its index in digits where names are not known, or none has this index."""
        if self.categories is None or not 0 <= index < len(self.categories):
            return str(index)
        return self.categories[index]

    @property
    def class_index(self) -> dict[str, int]:
        """Index of each class by its number, its name and, for the ImageNet-1k classes, its WordNet id.

        Numbers are digits that count classes from 0, so that "0" is `first_class`; where classes are called by other
        numbers than those, a number is a name and nothing else. A name that two classes share is left out. Empty
        without categories.
        """
        if self.categories is None:
            return {}
        names = self.categories[self.first_class :]
        uses = Counter(names)
        index = {name: i for i, name in enumerate(names, self.first_class) if uses[name] == 1}
        if names == imagenet_categories():
            index |= {wordnet_id: i for i, wordnet_id in enumerate(imagenet_wordnet_ids(), self.first_class)}
        numbers = {str(i): place for i, place in enumerate(range(self.first_class, self.first_class + len(names)))}
        if any(name.isdecimal() and numbers.get(name) != place for name, place in index.items()):
            return index
        return index | numbers


@torch.no_grad()
def number_of_logits(model: Classifier) -> int:
    """K of a model whose preprocessing is known, whether its classes have names or not, from one black image."""
    assert model.preprocessing is not None
    channels, side = model.mean.shape[1], model.preprocessing.crop
    return int(model(torch.zeros(1, channels, side, side, device=model.mean.device)).shape[1])
