"""The layer as a user of cvxpylayers would write it: the lifted conic program, one image of one channel."""

from collections.abc import Mapping

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch
from cvxpylayers.torch import CvxpyLayer
from torch import Tensor

from percep import SSIMBall
from percep.solvers.oracle import window_matrices


class LiftedLayer:
    """`argmax <g, d> - rho/2 |d|^2` with the window means as variables, compiled once for balls of one shape.

    Radii, centres, weights and the reference are parameters, so gradients reach the reference and the levels.

    Args:
        ball: of one gray image; its levels determine the constraints.
        rho: at least 0, fixed.
        solver: one of cvxpylayers'.
        options: for the solver, in every call.
    """

    def __init__(self, ball: SSIMBall, rho: float, solver: str, options: Mapping[str, object]) -> None:
        average, rows = window_matrices(ball)
        windows, pixels = average.shape
        self.options = dict(options)
        self.read = torch.as_tensor(rows.indices)
        root = np.sqrt(np.outer(ball.window.taps, ball.window.taps).ravel())
        self.root = torch.as_tensor(root)[:, None]
        taps = root.size
        d, mean = cp.Variable(pixels), cp.Variable(windows)
        linear, x = cp.Parameter(pixels), cp.Parameter(pixels)
        patches = cp.reshape(sp.diags(np.tile(root, windows)) @ rows @ d, (taps, windows), "F")
        patches = patches - root[:, None] @ cp.reshape(mean, (1, windows), "F")
        parameters, constraints = [linear, x], [mean == average @ d, d >= -x, d <= 1 - x]
        if ball.floor is not None:
            centre, radius = cp.Parameter((taps, windows)), cp.Parameter(windows)
            shift, reach = cp.Parameter(windows), cp.Parameter(windows)
            constraints += [cp.SOC(radius, patches - centre, axis=0), cp.abs(mean - shift) <= reach]
            parameters += [centre, radius, shift, reach]
        if ball.mean is not None:
            luminance = cp.Parameter(windows, nonneg=True)
            contrast, budget = cp.Parameter((taps, windows), nonneg=True), cp.Parameter(nonneg=True)
            spent = [cp.multiply(luminance, mean), cp.vec(cp.multiply(contrast, patches), "F")]
            constraints.append(cp.norm(cp.hstack(spent)) <= budget)
            parameters += [luminance, contrast, budget]
        objective = linear @ d - rho / 2 * cp.sum_squares(d) if rho > 0 else linear @ d
        problem = cp.Problem(cp.Maximize(objective), constraints)
        self.layer = CvxpyLayer(problem, parameters=parameters, variables=[d], solver=solver)

    def __call__(self, ball: SSIMBall, linear: Tensor) -> Tensor:
        """The perturbation `(1, 1, H, W)` over an `SSIMBall.attached`, in float64."""

        def windows(values: Tensor) -> Tensor:
            return values.expand(ball.map_shape).flatten()

        x = ball.reference.flatten()
        values = [linear.flatten(), x]
        if (sets := ball.floor_sets) is not None:
            patches = x[self.read].reshape(-1, len(self.root)).T
            mean = (self.root**2 * patches).sum(0)
            values += [
                self.root * (patches - mean) * windows(sets.contrast.k),
                windows(sets.contrast.radius),
                windows(sets.luminance.k) * mean,
                windows(sets.luminance.radius),
            ]
        if ball.ellipsoid is not None:
            roots = [windows(part).sqrt() for part in (ball.ellipsoid.luminance, ball.ellipsoid.contrast)]
            values += [roots[0], roots[1].expand(len(self.root), -1), ball.ellipsoid.budget.sqrt().reshape(())]
        (delta,) = self.layer(*values, solver_args=self.options)
        return delta.reshape(linear.shape)
