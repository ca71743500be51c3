"""Maps of a perturbation: its local energy, the multipliers of its constraints, and the effect of its parts."""

import torch
from captum.attr import Occlusion
from torch import Tensor

from percep.attacks.criteria import margin
from percep.attacks.validation import check_logits
from percep.ball import SSIMBall
from percep.errors import InputError
from percep.explain.logits import Model, logits_function
from percep.explain.maps.allocation import over_channels
from percep.explain.maps.squares import square_and_stride
from percep.program import Multipliers
from percep.ssim import C1, C2, variance
from percep.validation.class_indices import ClassIndices, as_class_indices
from percep.validation.images import require_images
from percep.windows import Window


def energy_maps(reference: Tensor, delta: Tensor) -> Tensor:
    """The perturbation's local energy over SSIM's denominators, `(B, H, W)` float64, at least 0.

    Squared local mean over `2 mean(x)^2 + C1` plus local variance over `2 var(x) + C2`, summed over channels: 1 - SSIM
    to second order in the perturbation, with the denominators at the reference.

    Args:
        reference: `(B, C, H, W)`, floating point in `[0, 1]`, sides of at least 6 pixels.
        delta: the same shape.

    Raises:
        InputError: a reference that is not a batch of images, shapes that differ, or sides that are too short.
    """
    require_images(reference, "reference")
    _check_same(reference, delta)
    window, x, d = Window.gaussian(), reference.double(), delta.double()
    mean_x, mean_d = window.mean(x), window.mean(d)
    luminance = mean_d.square() / (2 * mean_x.square() + C1)
    contrast = variance(window, d, mean_d) / (2 * variance(window, x, mean_x) + C2)
    return (luminance + contrast).sum(1)


def multiplier_maps(ball: SSIMBall, multipliers: Multipliers, delta: Tensor) -> Tensor:
    """The multiplier of SSIM in each window, `(B, H, W)` float64, at least 0: the objective's gain per SSIM given up.

    With a floor t it is minus the derivative of the program's optimal value by the floor of each window: the window's
    multipliers times the derivatives of its constraints at `delta`. A mean has one multiplier, divided by the number of
    windows, so the map of a mean alone is constant. Channels are summed; maps of strided windows are resampled
    bilinearly.

    Args:
        ball: of the program.
        multipliers: of its solution.
        delta: `(B, C, H, W)`, its solution.
    """
    total = torch.zeros(ball.map_shape, dtype=torch.float64, device=delta.device)
    if ball.floor is not None and multipliers.floor is not None:
        denominators = ball.double.view.denominators(ball.reference.double() + delta.double())
        for multiplier, denominator, share in zip(multipliers.floor, denominators, ball.floor_shares, strict=True):
            # |stat(d - k x)|^2 - radius^2 is (|stat d|^2 - e denominator) / (1 - e) with 1 / (1 - e) = 1 + k, and e
            # falls by share t^share / t per unit of t, 1 - e being t^share.
            total += multiplier.double() * denominator * share / ball.floor.double()
    if multipliers.mean is not None:
        total += multipliers.mean.double() / ball.num_windows
    return over_channels(total, (int(delta.shape[-2]), int(delta.shape[-1])))


def contribution_maps(gradient: Tensor, delta: Tensor) -> Tensor:
    """The first-order contribution to the margin: gradient times perturbation, `(B, H, W)` float64, signed.

    Products are summed over channels and averaged in SSIM's window, in which opposite signs of neighbouring pixels
    cancel.

    Args:
        gradient: `(B, C, H, W)`, of the margin at the reference.
        delta: the same shape, sides of at least 6 pixels.
    """
    return Window.gaussian().mean((gradient.double() * delta.double()).sum(1))


def ablation_maps(
    model: Model,
    reference: Tensor,
    delta: Tensor,
    labels: ClassIndices,
    targets: ClassIndices | None = None,
    *,
    side: int | None = None,
    stride: int | None = None,
    at_once: int = 1,
) -> Tensor:
    """The margin's decrease when the perturbation is removed in a square, `(B, H, W)` in its dtype, signed.

    Captum's occlusion on the perturbation, with 0 as its baseline: the square slides over the image, and a pixel's
    value is the mean decrease of the attack's margin over the squares that cover it. Forward passes only.

    Args:
        model: maps `(B, C, H, W)` images in `[0, 1]` to `(B, K)` logits, in eval mode; any callable.
        reference: `(B, C, H, W)`, floating point in `[0, 1]`.
        delta: the same shape, with `reference + delta` in `[0, 1]`.
        labels, targets: `(B,)` class indices: tensors, arrays or lists of integers; targets None for an untargeted
            attack.
        side: of the square, in pixels; by default a seventh of the shorter side.
        stride: by default half the side; at most `side`.
        at_once: squares per forward pass, each with the whole batch.

    Raises:
        InputError: tensors that are not images, a model in train mode or without logits, shapes that differ, labels
            or targets that are no classes of the model's, or a side, stride or number at once out of range.
    """
    require_images(reference, "reference")
    _check_same(reference, delta)
    logits = logits_function(model)
    height, width = (int(length) for length in delta.shape[-2:])
    side, stride = square_and_stride("ablation", (height, width), side, stride, at_once)

    own = as_class_indices("labels", labels, len(reference), reference.device)
    goals = own if targets is None else as_class_indices("targets", targets, len(reference), reference.device)

    def margins(delta: Tensor, images: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
        values, wanted = logits(images + delta), None if targets is None else goals
        check_logits(values, len(images), labels, wanted)
        return margin(values, labels, wanted)

    if not len(delta):
        return delta.sum(1)
    channels = int(delta.shape[1])
    with torch.no_grad():
        decrease: Tensor = Occlusion(margins).attribute(
            delta.detach(),
            sliding_window_shapes=(channels, side, side),
            strides=(channels, stride, stride),
            additional_forward_args=(reference, own, goals),
            perturbations_per_eval=at_once,
        )
    return decrease.to(delta.dtype).mean(1)


def _check_same(reference: Tensor, delta: Tensor) -> None:
    if reference.shape != delta.shape:
        raise InputError(
            f"reference and delta must be of one shape, got {tuple(reference.shape)}, {tuple(delta.shape)}"
        )
