"""The programs that are timed, made of photographs and real loss gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

import percep
from percep import Program, SSIMBall, Window
from percep.attacks.criteria import loss

_ACROSS = 5  # photographs per row of a mosaic


@dataclass(frozen=True)
class Case:
    """One image, its linear term and its ball."""

    name: str
    title: str
    reference: Tensor
    linear: Tensor
    window: Window
    floor: float | None = None
    mean: float | None = None

    @property
    def side(self) -> int:
        return int(self.reference.shape[-1])

    @property
    def channels(self) -> int:
        return int(self.reference.shape[1])

    def program(self, dtype: torch.dtype) -> Program:
        """A fresh program: nothing that a solver caches on it is there yet."""
        ball = SSIMBall(self.reference.to(dtype), floor=self.floor, mean=self.mean, window=self.window)
        return Program(ball, self.linear.to(dtype))


class Photographs:
    """The packaged photographs, EfficientNet-Lite0, and the gradients of its margin loss."""

    def __init__(self) -> None:
        self.model = percep.models.load("efficientnet_lite0").eval()
        assert self.model.preprocessing is not None
        photographs = list(percep.data.samples(self.model.preprocessing))
        self.images = torch.stack([photograph.image for photograph in photographs if photograph.image is not None])
        self.labels = torch.tensor([photograph.label for photograph in photographs])
        self.gradients = torch.cat([self.gradient(self.images[i : i + 1], i) for i in range(len(photographs))])

    def gradient(self, image: Tensor, index: int) -> Tensor:
        """The gradient of the loss at `(1, 3, H, W)`, a version of photograph `index`."""
        inputs = image.detach().requires_grad_()
        value = loss("margin", self.model(inputs), self.labels[index : index + 1], None).sum()
        (gradient,) = torch.autograd.grad(value, inputs)
        return gradient

    def crop(self, side: int, channels: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """A `(1, channels, side, side)` reference and gradient of any size up to 1024.

        Cut from a mosaic of photographs from number `first` on, and from the mosaic of their gradients, each
        divided by its root mean square; in one channel, the mean of the image's and the sum of the gradient's.
        Crops start inside the first photograph, so that small ones do not lie on its edge.
        """
        length = int(self.images.shape[-1])
        start = 80 if channels == 1 or side > length else 0
        tiles = -(-(start + side) // length)
        count = len(self.images)
        chosen = [[(first + row * _ACROSS + column) % count for column in range(tiles)] for row in range(tiles)]
        scaled = self.gradients / self.gradients.square().mean((1, 2, 3), keepdim=True).sqrt()
        parts = [
            _mosaic(values, chosen)[..., start : start + side, start : start + side] for values in (self.images, scaled)
        ]
        if channels == 1:
            return parts[0].mean(1, keepdim=True), parts[1].sum(1, keepdim=True)
        return parts[0].contiguous(), parts[1].contiguous()


def _mosaic(values: Tensor, chosen: list[list[int]]) -> Tensor:
    return torch.cat([torch.cat([values[i : i + 1] for i in row], -1) for row in chosen], -2)
