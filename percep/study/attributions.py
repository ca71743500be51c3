"""The attributions a study compares perturbations with: the library's, by name, and any function, by import path."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from percep.errors import InputError, PercepError, one_line
from percep.explain import gradcam, integrated_gradients, occlusion
from percep.explain.logits import with_gradients
from percep.explain.maps.squares import seventh
from percep.models import Classifier
from percep.models.custom import find

AttributionFunction = Callable[[Classifier, Tensor, Tensor], Tensor | np.ndarray]
"""Any attribution: a function of a model in eval mode, `(B, C, H, W)` images in [0, 1] and `(B,)` class indices, with
`(B, H, W)` maps of the evidence for these classes. They may be signed: below 0 is evidence against a class, which
counts as 0, as in Grad-CAM.
"""


@dataclass(frozen=True)
class StudyAttribution:
    """An attribution method as a study uses it.

    Attributes:
        title: its name as reports print it.
        maps: of a model, `(B, C, H, W)` images in [0, 1], `(B,)` class indices and a number of gradients per image, for
            methods that have such a number: `(B, H, W)`, at least 0.
    """

    title: str
    maps: Callable[[Classifier, Tensor, Tensor, int], Tensor]


def seventh_of(images: Tensor) -> int:
    """The side of the square that slides over images, and in a study its stride: squares that do not overlap."""
    return seventh((int(images.shape[-2]), int(images.shape[-1])))


ATTRIBUTIONS: dict[str, StudyAttribution] = {
    "gradcam": StudyAttribution("Grad-CAM", lambda model, images, labels, _: gradcam(model, images, labels)),
    "integrated_gradients": StudyAttribution(
        "integrated gradients",
        lambda model, images, labels, gradients: integrated_gradients(model, images, labels, gradients).maps,
    ),
    "occlusion": StudyAttribution(
        "occlusion",
        lambda model, images, labels, _: occlusion(model, images, labels, stride=seventh_of(images)).maps,
    ),
}
"""By name. Grad-CAM, the first, is computed in every variant of a study; the others in the main variant.

Squares of occlusion do not overlap, which takes 49 forward passes instead of 169 at 224x224."""


def is_attribution(name: str) -> bool:
    """Whether a map of `percep.study.Measurements.attention` is an attribution, by its name, and not a control map.

    The name of a function of one's own has a dot, as its import path has; that of a control map has none.
    """
    return name in ATTRIBUTIONS or "." in name


def attribution_title(name: str) -> str:
    """The name of an attribution as reports print it: that of a function, with spaces."""
    return ATTRIBUTIONS[name].title if name in ATTRIBUTIONS else name.rpartition(".")[2].replace("_", " ")


def chosen_attributions(entries: Sequence[str | AttributionFunction]) -> dict[str, StudyAttribution]:
    """The attributions that a list asks for, by their names in tables, in its order.

    Args:
        entries: names in `ATTRIBUTIONS`, import paths such as "my_package.my_maps", for which the working folder
            counts, and functions, whose names are the paths of their modules and their own.

    Raises:
        InputError: an unknown name, a path that leads to no function, or two entries that have one name in tables or
            reports.
    """
    chosen: dict[str, StudyAttribution] = {}
    titles: dict[str, str] = {}
    for entry in entries:
        name = entry if isinstance(entry, str) else _path_of(entry)
        if name in chosen:
            raise InputError(f"attribution {name} is there more than once: leave one out")
        if name in ATTRIBUTIONS:
            chosen[name] = ATTRIBUTIONS[name]
        else:
            chosen[name] = _own(name, _found(name) if isinstance(entry, str) else entry)
        other = titles.setdefault(chosen[name].title, name)
        if other != name:
            raise InputError(f"reports call both {other} and {name} {chosen[name].title}: give a function another name")
    return chosen


def _path_of(function: AttributionFunction) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _found(path: str) -> AttributionFunction:
    if "." not in path:
        close = difflib.get_close_matches(path, ATTRIBUTIONS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"unknown attribution {path!r}: {hint}known are {', '.join(ATTRIBUTIONS)}, and import paths")
    try:
        found = find(path)
    except (Exception, SystemExit) as error:  # of the module's own, too
        raise InputError(
            f"attribution {path} cannot be imported ({type(error).__name__}: {one_line(error)}): "
            "give a function as package.module.function"
        ) from error
    if not callable(found):
        raise InputError(f"attribution {path} is a {type(found).__name__}, not a function of model, images and labels")
    function: AttributionFunction = found
    return function


def _own(name: str, function: AttributionFunction) -> StudyAttribution:
    def maps(model: Classifier, images: Tensor, labels: Tensor, _: int) -> Tensor:
        with with_gradients(images) as apart:
            try:
                found = function(model, apart.clone(), labels.clone())
            except (PercepError, MemoryError, torch.OutOfMemoryError):  # which say what to do, or may be temporary
                raise
            except (Exception, SystemExit) as error:
                raise InputError(f"attribution {name} fails ({type(error).__name__}: {one_line(error)})") from error
        return _checked(name, found, images)

    return StudyAttribution(attribution_title(name), maps)


def _checked(name: str, found: object, images: Tensor) -> Tensor:
    """What a function has returned, as `(B, H, W)` maps, at least 0, detached, on the images' device in their dtype."""
    if not isinstance(found, Tensor | np.ndarray):
        raise InputError(f"attribution {name} returns a {type(found).__name__}, not a tensor or an array of maps")
    maps = torch.as_tensor(found).detach().to(images)
    expected = (len(images), *images.shape[-2:])
    if tuple(maps.shape) != expected:
        raise InputError(
            f"attribution {name} returns maps of shape {tuple(maps.shape)}, not {expected}: "
            "one of the image's size for each image, without channels"
        )
    if not bool(torch.isfinite(maps).all()):
        raise InputError(f"attribution {name} returns maps that are not finite")
    return maps.clamp_min(0)
