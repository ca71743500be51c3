"""Preprocessing: how a photograph becomes a classifier's input."""

from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from percep.errors import InputError

_MODES = {1: "L", 3: "RGB"}
_MOST_PIXELS = 2**24
"""Of a resized photograph; of a larger one only what is cut out of it is computed."""
_SUPPORT = 3  # pixels that the widest filter, Lanczos', reads on each side


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes a classifier's input: it is resized, and its centre is cut out.

    This is what the source of a network does (torchvision's `weights.transforms()`, timm's `create_transform`), with
    one exception: a photograph that is `crop` x `crop` already is taken as it is, whatever its `resize`. The result
    is an 8-bit image, so that a lossless file holds exactly what the classifier sees, and is seen the same when it is
    read again.

    Attributes:
        resize: length of the short side after resizing, in pixels.
        crop: side of the square cut out of the centre. Where it exceeds `resize`, as with some models of timm, there
            is a black frame.
        interpolation: the resampling filter; Pillow widens it when it shrinks an image.
        channels: 3 for colour, 1 for a network of grey images.
        crop_mode: "center" keeps the proportions and loses what is outside of the square; "squash" resizes both sides
            to `resize` pixels; "border" resizes the long side and fills what the square lacks with `fill`.
        fill: the colour of borders, levels from 0 to 255, one per channel.

    Raises:
        InputError: sizes below 1, or other channels or modes.
    """

    resize: int
    crop: int
    interpolation: InterpolationMode = InterpolationMode.BICUBIC
    channels: int = 3
    crop_mode: Literal["center", "squash", "border"] = "center"
    fill: tuple[int, ...] = (0, 0, 0)

    def __post_init__(self) -> None:
        if min(self.resize, self.crop) < 1:
            raise InputError(f"resize and crop must be at least 1, got {self.resize} and {self.crop}")
        if self.channels not in _MODES:
            raise InputError(f"channels must be 1 (grey) or 3 (colour), got {self.channels}")
        if self.crop_mode not in ("center", "squash", "border"):
            raise InputError(f"crop_mode must be center, squash or border, got {self.crop_mode!r}")

    def __call__(self, photograph: Image.Image) -> Image.Image:
        """The `crop` x `crop` image, grey or RGB, of a photograph of any size."""
        if photograph.mode != _MODES[self.channels]:
            photograph = photograph.convert(_MODES[self.channels])
        if photograph.size == (self.crop, self.crop):
            return photograph
        if self.crop_mode == "squash":
            resized = self._resized(photograph, self.resize, self.resize)
        elif self.crop_mode == "border":
            resized = self._bordered(photograph)
        else:
            width, height = self._covering(photograph)
            thin = width * height > _MOST_PIXELS
            resized = (self._centre if thin else self._resized)(photograph, width, height)
        return transforms.center_crop(resized, [self.crop])

    def _resized(self, photograph: Image.Image, width: int, height: int) -> Image.Image:
        return transforms.resize(photograph, [height, width], interpolation=self.interpolation)

    def _covering(self, photograph: Image.Image) -> tuple[int, int]:
        """Width and height after the short side is resized; torchvision rounds the long side down."""
        width, height = photograph.size
        long = int(self.resize * max(width, height) / min(width, height))
        return (self.resize, long) if width <= height else (long, self.resize)

    def _centre(self, photograph: Image.Image, width: int, height: int) -> Image.Image:
        """The centre of the photograph resized to `width` x `height`, which is never made whole.

        Pillow keeps places in single precision: only what the filter reads is handed to it, so that they are small.
        """
        across = _Cut(photograph.width, width, min(self.crop, width))
        down = _Cut(photograph.height, height, min(self.crop, height))
        resampling = Image.Resampling[self.interpolation.name.removesuffix("_EXACT")]
        part = photograph.crop((across.low, down.low, across.high, down.high))
        box = (across.start, down.start, across.end, down.end)
        return part.resize((across.size, down.size), resampling, box=box)

    def _bordered(self, photograph: Image.Image) -> Image.Image:
        ratio = max(photograph.size) / self.resize
        width, height = (max(1, round(side / ratio)) for side in photograph.size)
        resized = self._resized(photograph, width, height)
        across, down = max(0, self.crop - width), max(0, self.crop - height)
        fill = self.fill[0] if self.channels == 1 else tuple(self.fill)
        return transforms.pad(resized, [across // 2, down // 2, (across + 1) // 2, (down + 1) // 2], fill=fill)


class _Cut:
    """Along one side: the pixels `low` to `high` to take, and where in them the `size` central resized ones lie."""

    def __init__(self, side: int, resized: int, size: int) -> None:
        scale = side / resized
        first = round((resized - size) / 2)
        margin = ceil(_SUPPORT * max(1, scale)) + 1
        self.size = size
        self.low = max(0, floor(first * scale) - margin)
        self.high = min(side, ceil((first + size) * scale) + margin)
        self.start = first * scale - self.low
        self.end = min((first + size) * scale, self.high) - self.low
