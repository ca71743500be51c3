"""A model that is not well on dark and on bright images."""

import torch
from torch import Tensor, nn


class Moods(nn.Module):
    """Before another module in a class's bases: NaN logits for dark images, and a NaN gradient for bright ones."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        brightness = images.flatten(1).mean(1, keepdim=True)
        logits = torch.where(brightness < 0.1, torch.nan, logits)
        bright = brightness > 0.9
        return logits + bright * torch.where(bright, brightness - brightness.detach(), 1.0).sqrt()
