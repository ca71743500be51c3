"""The kernels of conjugate gradients, their tensors and the addresses of those; see `percep.kernels.cg.CGIterate`."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from percep.kernels.arguments import SystemArguments, contiguous, empty_like, sides, system_arguments
from percep.kernels.cg import BoxSystem
from percep.kernels.cpu import cg, plans, symmetric
from percep.kernels.cpu.launch import addresses, run_chosen
from percep.kernels.cpu.multilevel import transfers


@lru_cache(maxsize=256)
def _planned(kernel: Any, sizes: tuple[tuple[int, int], ...]) -> plans.Planned:
    """A kernel of `cg` with the transfers of the preconditioner between grids of those sizes."""
    return plans.Planned(kernel, transfers(sizes))


class CompiledIterate:
    """`CGIterate` by kernels, for a window that `launch.fuses` and at least one coarse grid."""

    def __init__(self, system: BoxSystem) -> None:
        delta, size = system.delta, (system.window, system.window.taps, *sides(system.delta))
        given = system_arguments(delta, system.diagonal, system.inner, system.window)
        self._diagonal, self._inner = contiguous(given.diagonal), contiguous(given.inner)
        self._direction, self._previous = empty_like(delta), empty_like(delta)
        self._vectors = _vectors(system)
        self._at: cg.Vectors[int] = addresses(self._vectors)
        self._images = np.arange(len(delta))
        self._product = plans.symmetric_kernel(symmetric.product, *size)
        self._product_along = plans.symmetric_kernel(symmetric.product_along, *size)
        grids = sides(delta), *(sides(level) for level in system.levels)
        self._clamp, self._find_free, self._precondition, self._move = (
            _planned(kernel, grids) for kernel in (cg.clamp, cg.find_free, cg.precondition, cg.move)
        )

    def rhs_weight(self) -> Tensor:
        """See `CGIterate.rhs_weight`."""
        self._run(self._find_free, None, self._at, cg.RIGHT_HAND_SIDE, self._numbers())
        weight = self._numbers()
        self._run(self._precondition, None, self._at, self._at.rhs, weight)
        return weight

    def restart(self, chosen: Tensor) -> None:
        """See `CGIterate.restart`."""
        at, unused = self._at, self._numbers()
        self._run(self._clamp, chosen, at.delta, at.reference, at.delta)
        system = SystemArguments(self._vectors.delta, self._diagonal, self._inner)
        self._run(self._product, chosen, system, at.product, unused)
        self._run(self._find_free, chosen, at, cg.RESTARTED, unused)

    def revise_free(self, chosen: Tensor) -> Tensor:
        """See `CGIterate.revise_free`."""
        changed = self._numbers()
        self._run(self._find_free, chosen, self._at, cg.REVISED, changed)
        return changed > 0

    def precondition(self, chosen: Tensor) -> Tensor:
        """See `CGIterate.precondition`."""
        weight = self._numbers()
        self._run(self._precondition, chosen, self._at, self._at.residual, weight)
        return weight

    def multiply(self, beta: Tensor, chosen: Tensor) -> Tensor:
        """See `CGIterate.multiply`."""
        self._direction, self._previous = self._previous, self._direction
        system = SystemArguments(self._direction, self._diagonal, self._inner)
        direction = symmetric.Direction(self._vectors.scaled, self._previous, contiguous(beta))
        curvature = self._numbers()
        self._run(self._product_along, chosen, system, direction, self._at.product, curvature)
        return curvature

    def move(self, alpha: Tensor, chosen: Tensor) -> Tensor:
        """See `CGIterate.move`."""
        excursion = self._numbers()
        self._run(self._move, chosen, self._at, self._direction, contiguous(alpha), excursion)
        return excursion

    def solution(self) -> Tensor:
        """See `CGIterate.solution`."""
        self._run(self._clamp, None, self._at.delta, self._at.reference, self._at.delta)
        return self._vectors.delta

    def _numbers(self) -> Tensor:
        """A number for each image, 0 until a kernel writes it."""
        return self._vectors.delta.new_zeros(len(self._images), 1, 1, 1)

    def _run(self, kernel: plans.Planned, chosen: Tensor | None, *arguments: Any) -> None:
        """Calls a kernel for the chosen images, with addresses in place of tensors; None is all."""
        images = self._images
        if chosen is not None and len(images) > 1 and not bool(chosen.all()):
            images = images[chosen.flatten().numpy()]
        run_chosen(kernel, self._vectors.delta, images, *arguments)


def _vectors(system: BoxSystem) -> cg.Vectors[Tensor]:
    """Those that are read, and room for those that are written."""
    delta = system.delta
    planes, (bands, columns) = delta.shape[:2], sides(system.levels[0])
    return cg.Vectors(
        delta=empty_like(delta).copy_(delta),
        reference=contiguous(system.reference),
        rhs=contiguous(system.rhs),
        residual=empty_like(delta),
        product=empty_like(delta),
        inverse=contiguous(system.covered * system.inverse_diagonal),
        free_inverse=empty_like(delta),
        scaled=empty_like(delta),
        contributions=delta.new_empty(*planes, bands, 2, columns),
        level_inverse=torch.cat([level.flatten(2) for level in system.levels], 2),
        corrections=delta.new_empty(*planes, bands, columns),
    )
