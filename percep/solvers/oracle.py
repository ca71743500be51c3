"""The reference answer: the lifted conic program, stated in cvxpy and solved by a generic solver."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.errors import InputError, UnavailableError
from percep.program import Multipliers, Program, Solution
from percep.solvers.answers import Answers
from percep.solvers.recovery import shrink
from percep.windows import Window

_LARGEST = 3 * 128 * 128


@dataclass(frozen=True)
class Oracle:
    """Solves each image on its own with cvxpy, one mean variable per window (the lifted form).

    For references and tests: a 64x64 image with every window takes minutes. Needs `pip install percep[oracle]`.

    Attributes:
        backend: name of the cvxpy solver, "CLARABEL" or another one installed.
        options: passed to the backend as they are.
    """

    backend: str = "CLARABEL"
    options: tuple[tuple[str, float | int | bool | str], ...] = ()

    def solve(self, program: Program, tol: float, warm_start: Solution | None = None) -> Solution:
        """See `percep.solve`. The answer gets the same certificate as any other solver's."""
        answers = Answers(program)
        for image in range(program.ball.batch):
            index = torch.tensor([image], device=program.linear.device)
            part = program.select(index)
            delta, multipliers = self._solve_one(part)
            answers.offer(index, part, shrink(part.ball, delta), delta, multipliers, 1)
        return answers.solution(tol)

    def _solve_one(self, program: Program) -> tuple[Tensor, Multipliers]:
        try:
            import cvxpy as cp  # noqa: PLC0415
        except ImportError:
            raise UnavailableError("the oracle needs cvxpy: pip install 'percep[oracle]'") from None
        exact = program.double
        ball = exact.ball
        x = ball.reference.flatten().cpu().numpy()
        if x.size > _LARGEST:
            raise InputError(f"the oracle holds at most {_LARGEST} pixels per image, got {x.size}: use Dual")
        average, rows = window_matrices(ball)
        channels, windows = ball.map_shape[1], ball.map_shape[2] * ball.map_shape[3]
        taps = rows.shape[0] // windows
        weights = _weights(ball.window, taps)

        d = cp.Variable(x.size)
        mean_d = cp.Variable(channels * windows)
        average, rows = (sp.block_diag([matrix] * channels, format="csr") for matrix in (average, rows))
        # Each column of `patches` holds sqrt(w) (d - mean d) over one window: its norm is the deviation.
        patches = cp.reshape(
            cp.multiply(np.tile(weights, channels * windows), rows @ d), (taps, channels * windows), "F"
        )
        patches = patches - np.reshape(weights, (-1, 1)) @ cp.reshape(mean_d, (1, channels * windows), "F")
        constraints = [mean_d == average @ d, d >= -x, d <= 1 - x]
        local = []
        if ball.luminance is not None and ball.contrast is not None:
            mean_x = ball.reference_mean.flatten().cpu().numpy()
            x_patches = np.reshape(np.tile(weights, channels * windows) * (rows @ x), (taps, -1), "F")
            x_patches = x_patches - np.outer(weights, mean_x)
            k1, k2 = (_per_window(level.k, ball) for level in (ball.luminance, ball.contrast))
            r1, r2 = (_per_window(level.radius, ball) for level in (ball.luminance, ball.contrast))
            local = [
                cp.abs(mean_d - k1 * mean_x) <= r1,
                cp.SOC(cp.Constant(r2), patches - x_patches * k2, axis=0),
            ]
        spent = None
        if ball.ellipsoid is not None:
            root1, root2 = (
                _per_window(part, ball) ** 0.5 for part in (ball.ellipsoid.luminance, ball.ellipsoid.contrast)
            )
            stacked = cp.hstack(
                [cp.multiply(root1, mean_d), cp.vec(cp.multiply(np.tile(root2, (taps, 1)), patches), "F")]
            )
            spent = cp.norm(stacked) <= float(ball.ellipsoid.budget.flatten()[0]) ** 0.5
            constraints.append(spent)
        rho = float(exact.rho.flatten()[0])
        objective = exact.linear.flatten().cpu().numpy() @ d
        if rho > 0:
            anchor = 0.0 if exact.anchor is None else exact.anchor.flatten().cpu().numpy()
            objective = objective - rho / 2 * cp.sum_squares(d - anchor)
        problem = cp.Problem(cp.Maximize(objective), constraints + local)
        problem.solve(solver=self.backend, **dict(self.options))
        if d.value is None:
            raise InputError(f"{self.backend} gave no answer: {problem.status}")

        def tensor(values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
            return torch.as_tensor(values, dtype=program.linear.dtype, device=program.linear.device).reshape(shape)

        luminance = contrast = mean = None
        if local:
            first, second = np.ravel(local[0].dual_value), np.ravel(local[1].dual_value[0])
            luminance = tensor(np.maximum(first, 0) / (2 * r1), ball.map_shape)
            contrast = tensor(np.maximum(second, 0) / (2 * r2), ball.map_shape)
        if spent is not None:
            assert ball.ellipsoid is not None
            mean = tensor(np.maximum(np.ravel(spent.dual_value), 0), (1, 1, 1, 1))
            mean = mean / (2 * ball.ellipsoid.budget.sqrt().to(mean.dtype))
        return tensor(d.value, tuple(program.linear.shape)), Multipliers(luminance, contrast, mean)


def window_matrices(ball: SSIMBall) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Of one channel: the local mean, `(windows, pixels)`, and all patches, `(windows * taps, pixels)`."""
    height, width = (int(side) for side in ball.reference.shape[-2:])
    vertical, horizontal = (_selection(ball.window, side) for side in (height, width))
    taps = np.asarray(ball.window.taps)
    patches = []
    for row in vertical:
        for column in horizontal:
            patches.append((row[:, None] * width + column[None, :]).ravel())
    index = np.concatenate(patches)
    rows = sp.csr_matrix((np.ones(index.size), (np.arange(index.size), index)), (index.size, height * width))
    weight = np.outer(taps, taps).ravel()
    gather = sp.kron(sp.identity(len(patches)), weight[None, :], format="csr")
    return sp.csr_matrix(gather @ rows), rows


def _selection(window: Window, length: int) -> list[np.ndarray]:
    """The pixel read by each tap of each one-dimensional window, mirrored at the border."""
    before = (window.size - 1) // 2 if window.padding == "reflect" else 0
    count = window.grid(length, length)[0]
    index = np.arange(count)[:, None] * window.stride + np.arange(window.size)[None, :] - before
    index = np.abs(index)
    return list(np.where(index >= length, 2 * (length - 1) - index, index))


def _weights(window: Window, taps: int) -> np.ndarray:
    weights = np.sqrt(np.outer(window.taps, window.taps).ravel())
    assert weights.size == taps
    return weights


def _per_window(values: Tensor, ball: SSIMBall) -> np.ndarray:
    return values.expand(ball.map_shape).flatten().cpu().numpy()
