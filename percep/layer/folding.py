"""A dimension that `torch.vmap` maps over, folded into the batch: what the layer's functions need to be mapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# Of the layer's inputs: reference, linear term and anchor. After them come rho, floor and mean.
_IMAGES = 3


@dataclass(frozen=True)
class Folding:
    """`mapped` batches of `batch` images each as one batch.

    Tensors whose first axis is the batch's become `(mapped * batch, ...)`. Numbers, and what has one value for all
    images, are repeated, so that each image has its own.
    """

    mapped: int
    batch: int

    @classmethod
    def of(cls, mapped: int, images: Tensor, dim: int | None) -> "Folding":
        """For `images` mapped over along `dim`."""
        return cls(mapped, int((images if dim is None else images.movedim(dim, 0)[0]).shape[0]))

    def fold(self, values: Tensor | None, dim: int | None) -> Tensor | None:
        """What has the batch as its first axis."""
        return None if values is None else self._front(values, dim).flatten(0, 1)

    def inputs(self, values: Sequence[Any], dims: Sequence[int | None]) -> list[Any]:
        """The layer's inputs."""
        return [
            value
            if not isinstance(value, Tensor)
            else self.fold(value, dim)
            if place < _IMAGES
            else self._setting(value, dim)
            for place, (value, dim) in enumerate(zip(values, dims, strict=True))
        ]

    def unfold(self, values: Sequence[Tensor | None]) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
        """Folded results as results of each of the mapped batches, and where the mapped dimension is."""
        results = tuple(None if v is None else v.reshape(self.mapped, self.batch, *v.shape[1:]) for v in values)
        return results, tuple(None if value is None else 0 for value in values)

    def gradients(
        self, values: Sequence[Tensor | None], inputs: Sequence[Any], dims: Sequence[int | None]
    ) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
        """Folded gradients as those of the mapped inputs: summed where one value served several images."""
        unfolded, places = self.unfold(values)
        results = tuple(
            gradient if gradient is None or place < _IMAGES else self._reduced(gradient, value, dim)
            for place, (gradient, value, dim) in enumerate(zip(unfolded, inputs, dims, strict=True))
        )
        return results, places

    def _front(self, values: Tensor, dim: int | None) -> Tensor:
        return values.expand(self.mapped, *values.shape) if dim is None else values.movedim(dim, 0)

    def _setting(self, value: Tensor, dim: int | None) -> Tensor:
        front = self._front(value, dim)
        own = _aligned(tuple(front.shape[1:]))
        front = front.reshape(self.mapped, *own).expand(self.mapped, self.batch, *own[1:])
        return front.flatten(0, 1)

    def _reduced(self, gradient: Tensor, value: Tensor, dim: int | None) -> Tensor:
        own = tuple(value.shape if dim is None else value.movedim(dim, 0)[0].shape)
        return gradient.sum_to_size(self.mapped, *_aligned(own)).reshape(self.mapped, *own)


def _aligned(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A setting's shape with the batch in front: one per image `(B or 1,)`, or `(B or 1, C, h, w)`."""
    if len(shape) <= 1:
        return shape or (1,)
    return (1,) * (4 - len(shape)) + shape
