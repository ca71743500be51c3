"""Names of classes: ImageNet's, or those of a file."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from timm.data import ImageNetInfo, infer_imagenet_subset
from torchvision.models import MobileNet_V2_Weights

from percep.errors import InputError

IMAGENET = "imagenet"

IMAGENET_CLASSES = 1000
IMAGENET_ANIMALS = 398
"""How many classes ImageNet-1k has, and how many of them, the first, are animals: descendants of animal.n.01 in WordNet
(Russakovsky et al., IJCV 2015, take the classes from there). Of the others none is one."""


@cache
def imagenet_categories() -> tuple[str, ...]:
    """The names of the ImageNet-1k classes."""
    return tuple(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])


@cache
def imagenet_wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of the ImageNet-1k classes."""
    return tuple(ImageNetInfo("imagenet-1k").label_names())


@cache
def counted_categories(classes: int) -> Sequence[str]:
    """Names of classes that are known by their number only: ImageNet's subsets have theirs, others digits."""
    subset = infer_imagenet_subset({"num_classes": classes})
    if subset == "imagenet-1k":
        return imagenet_categories()
    if subset is None:
        return [str(i) for i in range(classes)]
    return list(ImageNetInfo(subset).label_descriptions())


def read_categories(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Names as they are given, those of ImageNet-1k for "imagenet", or those of a file with a name per line.

    Raises:
        InputError: a file that cannot be read, or a line without a name.
    """
    if given == IMAGENET:
        return imagenet_categories()
    if not isinstance(given, str | Path):
        return tuple(given)
    try:
        lines = Path(given).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InputError(f"categories {given}: {reason}: give {IMAGENET} or a file with a name per line") from error
    names = tuple(line.strip() for line in lines)
    if not all(names) or not names:
        fault = f"line {names.index('') + 1} has no name" if names else "it is empty"
        raise InputError(f"categories {given}: {fault}")
    return names
