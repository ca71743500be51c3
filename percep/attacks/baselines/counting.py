"""What the libraries are given as their model: it counts passes and keeps the caller's module as it is."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class NotFiniteError(Exception):
    """A library asked for an image, or got logits or a gradient, with NaN or infinity."""


class Counted(nn.Module):
    """A model that counts its passes, in eval mode, on one device.

    It shows the libraries no parameters but an empty one, where they look for the device: they cannot move the
    user's module, change its mode or fill its parameters' gradients. It stops at the first value that is not
    finite, on which some of them would loop forever.

    Args:
        model: maps `(B, C, H, W)` images in [0, 1] to `(B, K)` logits.
        device: where the images are.

    Attributes:
        gradient_calls: forward passes through which a backward pass went.
        forward_calls: the other forward passes.
    """

    def __init__(self, model: Callable[[Tensor], Any], device: torch.device) -> None:
        super().__init__()
        self.answer = partial(model)  # a module as such would be registered
        self.anchor = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.gradient_calls = 0
        self.forward_calls = 0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` of `(B, C, H, W)` images, differentiable once.

        Raises:
            NotFiniteError: NaN or infinity in the images or the logits; in the gradient, on the way back.
        """
        require_finite(images)
        self.forward_calls += 1
        if torch.is_grad_enabled() and images.requires_grad:
            logits: Tensor = _Pass.apply(images, self)
        else:
            with torch.no_grad():
                logits = self.answer(images)
        require_finite(logits)
        return logits


def require_finite(values: Tensor) -> None:
    """Raises NotFiniteError for NaN or infinity."""
    if not bool(torch.isfinite(values).all()):
        raise NotFiniteError


class _Pass(torch.autograd.Function):
    """The model, differentiated in its images alone."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, counted: Counted) -> Tensor:
        with torch.enable_grad():
            ctx.images = images.detach().requires_grad_()
            ctx.logits = counted.answer(ctx.images)
        ctx.counted = counted
        logits: Tensor = ctx.logits.detach()
        return logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.counted.gradient_calls += 1
        ctx.counted.forward_calls -= 1
        gradient = None
        if ctx.logits.requires_grad:
            (gradient,) = torch.autograd.grad(ctx.logits, ctx.images, gradients, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(ctx.images)
        require_finite(gradient)
        return gradient, None
