"""The inputs of the layer, as tensors in autograd's graph."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.levels import Level
from percep.program import Program
from percep.windows import Window


class Inputs(NamedTuple):
    """The inputs of one call of the layer; numbers and None have no derivative."""

    reference: Tensor
    linear: Tensor
    anchor: Tensor | None
    proximal: float | Tensor
    floor: Level | None
    mean: Level | None

    def ball(self, window: Window) -> SSIMBall:
        """The ball, without a graph."""
        return SSIMBall(self.reference, self.floor, self.mean, window)

    def program(self, ball: SSIMBall) -> Program:
        """The program over `ball`, without a graph."""
        anchor = None if self.anchor is None else self.anchor.detach()
        rho = self.proximal.detach() if isinstance(self.proximal, Tensor) else self.proximal
        return Program(ball, self.linear.detach(), rho, anchor)

    @property
    def rho(self) -> Tensor:
        """`(B, 1, 1, 1)`, in the graph."""
        rho = torch.as_tensor(self.proximal, dtype=self.linear.dtype, device=self.linear.device)
        return rho.expand(len(self.linear)).reshape(-1, 1, 1, 1)

    def recordable(self) -> "Inputs":
        """These inputs, with copies of those made under inference mode where autograd may have to save them."""
        if torch.is_inference_mode_enabled():
            return self
        copies: dict[str, Any] = {
            name: value.clone()
            for name, value in self._asdict().items()
            if isinstance(value, Tensor) and value.is_inference()
        }
        return self._replace(**copies)

    def finite_part(self, finite: Tensor) -> "Inputs":
        """These inputs with a linear term and an anchor of 0 where `finite`, `(B,)` bool, is False.

        A ball does the same for its reference.
        """
        mask = finite.reshape(-1, 1, 1, 1)
        anchor = None if self.anchor is None else torch.where(mask, self.anchor, 0.0)
        return self._replace(linear=torch.where(mask, self.linear, 0.0), anchor=anchor)
