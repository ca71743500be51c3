"""The convex program as a differentiable layer."""

from percep.layer.adjoint import AdjointReport
from percep.layer.module import SSIMBallLayer

__all__ = ["AdjointReport", "SSIMBallLayer"]
