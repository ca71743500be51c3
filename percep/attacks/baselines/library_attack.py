"""An attack of another library, and what it is asked to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

from torch import Tensor

from percep.attacks.baselines.counting import Counted
from percep.attacks.criteria import achieved
from percep.errors import UnavailableError


@dataclass(frozen=True)
class Problem:
    """One image to attack.

    Attributes:
        model: counts its passes.
        image: `(1, C, H, W)` float32 in [0, 1], not adversarial yet.
        label: `(1,)` int64, to be left.
        target: `(1,)` int64, to be reached, or None.
    """

    model: Counted
    image: Tensor
    label: Tensor
    target: Tensor | None

    @property
    def goal(self) -> Tensor:
        """`(1,)`, the class the libraries ask for: the target where there is one, else the label."""
        return self.label if self.target is None else self.target

    def met(self, image: Tensor) -> bool:
        """Whether a `(1, C, H, W)` image is adversarial; one forward pass."""
        return bool(achieved(self.model(image), self.label, self.target))


@dataclass(frozen=True)
class LibraryAttack:
    """An attack of a library, set up for a budget of gradients.

    Attributes:
        library: the name of its distribution.
        attack: what the library calls it.
        settings: what it was set to; the rest are the library's defaults.
        run: attacks one image, `(1, C, H, W)` in and out; None where the library says that it found nothing.
        targeted: whether the library's attack has a targeted mode.
        rgb: whether it takes colour images only.
        min_side: the fewest pixels a side of an image may have.
        min_classes: the fewest classes it works with.
        epsilons: values tried of the epsilon that it needs; 0 where it needs none.
        eight_bit: whether it searches for images that are adversarial when rounded to 8 bits.
    """

    library: str
    attack: str
    settings: Mapping[str, object]
    run: Callable[[Problem], Tensor | None]
    targeted: bool = True
    rgb: bool = False
    min_side: int = 1
    min_classes: int = 2
    epsilons: int = 0
    eight_bit: bool = False

    @property
    def origin(self) -> str:
        """Library, version, attack and settings, on one line."""
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        search = f", smallest of {self.epsilons} epsilons" if self.epsilons else ""
        rounded = ", judged as rounded" if self.epsilons and self.eight_bit else ""
        return f"{self.release}: {self.attack}({settings}){search}{rounded}"

    @property
    def release(self) -> str:
        """Library and version."""
        return f"{self.library} {version(self.library)}"


def load_library(module: str, remedy: str) -> Any:
    """A library's module.

    Raises:
        UnavailableError: it is not installed; `remedy` says what to do.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UnavailableError(f"this baseline needs {module.partition('.')[0]}: {remedy}") from error
