"""How much of a model's margin a caller's gradient is worth, whose scale says nothing of it."""

import torch
from torch import Tensor

from percep.attacks.search.bisection import IsAdversarial, first_crossing
from percep.attacks.search.state import RunState
from percep.attacks.search.step import ray
from percep.ball.batch import per_image
from percep.solvers.quadratic import WindowQuadratic

# 1 - SSIM of the first length that is tried along a caller's gradient.
_FIRST_COST = 1e-4
_TINY = 1e-30


class GradientScale:
    """The margin per unit along the average gradient of each image of a batch.

    Args:
        reference: `(B, C, H, W)` in [0, 1], of so many levels.
        levels: as in `quantise`.
    """

    def __init__(self, reference: Tensor, levels: int | None) -> None:
        self._reference, self._levels = reference, levels
        self._first_margin = reference.new_zeros(len(reference))
        self._slope = reference.new_ones(len(reference))

    def record_first(self, images: Tensor, margins: Tensor) -> None:
        """Records the margins `(n,)` at the references of some images."""
        self._first_margin[images] = margins

    def measure(
        self,
        images: Tensor,
        state: RunState,
        margins: Tensor,
        quadratic: WindowQuadratic,
        is_adversarial: IsAdversarial,
    ) -> Tensor:
        """The slopes `(n,)`: the secant of the margin from the reference.

        At the reference itself the margin is measured along the ray, in forward passes.

        Args:
            images: indices `(n,)`.
            state, margins, quadratic: of these images, at their present perturbations.
            is_adversarial: evaluates perturbations of the images at some of the n places.
        """
        slope, first_margin = self._slope[images], self._first_margin[images]
        gained = per_image(state.average * state.delta).flatten()
        secant = (margins - first_margin) / gained
        slope = torch.where((gained > 0) & (secant > 0) & torch.isfinite(secant), secant, slope)
        starting = torch.nonzero((state.delta == 0).flatten(1).all(1)).flatten()
        if len(starting):
            average = state.average[starting]
            target = ray(quadratic, state.average, state.direction, self._levels)[starting]
            worth = per_image(average * target).clamp_min(_TINY)
            crossed = first_crossing(
                target * (2 * _FIRST_COST / worth).sqrt(),
                self._reference[images[starting]],
                self._levels,
                lambda places, tried: is_adversarial(starting[places], tried),
            )
            measured = -first_margin[starting] / per_image(average * crossed).flatten()
            slope[starting] = torch.where((measured > 0) & torch.isfinite(measured), measured, slope[starting])
        self._slope[images] = slope
        return slope
