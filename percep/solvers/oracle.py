"""The reference answer: the lifted conic program, stated in cvxpy and solved by a generic solver."""

import contextlib
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from percep.ball import SSIMBall
from percep.ball.ellipsoid import MeanBall
from percep.errors import InputError, UnavailableError
from percep.program import FloorMultipliers, Multipliers, Program, Solution
from percep.solvers.feasibility import scale_into_ball
from percep.solvers.incumbents import Incumbents
from percep.solvers.lagrangian import feasible_multipliers
from percep.solvers.solver import Solver
from percep.windows import Window

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# Taps of all windows, one row of the matrices each: 128x128x3 with the default window.
_MAX_TAPS = 3 * 128 * 128 * 121
# Those of cvxpy's solvers that take second-order cones and give their multipliers.
_BACKENDS = ("CLARABEL", "SCS", "MOREAU", "DIFFCP")


@dataclass(frozen=True)
class Oracle(Solver):
    """Solves each image on its own with cvxpy, one mean variable per window (the lifted form).

    For references and tests: a 64x64 image with every window takes minutes. Needs `pip install percep[oracle]`.

    Attributes:
        backend: "CLARABEL" (interior point), "SCS" (first order), "DIFFCP" (the default of cvxpylayers, SCS inside)
            or "MOREAU", where cvxpy finds it installed.
        options: passed to the backend as they are.
    """

    backend: str = "CLARABEL"
    options: tuple[tuple[str, float | int | bool | str], ...] = ()

    def answer(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        """See `Solver.answer`. The answer gets the same certificate as any other solver's.

        An image on which the backend fails is answered with d = 0, certified as such.

        Raises:
            UnavailableError: cvxpy is not installed.
            InputError: a backend that is not installed, an image too large.
        """
        incumbents = Incumbents(program)
        for image in range(program.ball.batch):
            index = torch.tensor([image], device=program.linear.device)
            part = program.select(index)
            lifted = Lifted(part, self.backend)
            try:
                lifted.run(dict(self.options))
                delta, multipliers = lifted.answer()
            except InputError:
                delta, multipliers = torch.zeros_like(part.linear), feasible_multipliers(part)
            incumbents.update(index, part, scale_into_ball(part.ball, delta), delta, multipliers, 1)
        return incumbents.solution(tol)


class Lifted:
    """The lifted program of one image, stated and compiled for a backend; then `run` it and read the `answer`.

    Variables are d and the mean of d over every window; each window's deviation is one second-order cone.

    Raises:
        UnavailableError: cvxpy is not installed.
        InputError: a backend that is not installed, an image too large.
    """

    def __init__(self, program: Program, backend: str) -> None:
        import scipy.sparse as sp  # noqa: PLC0415  `import percep` does not wait for scipy

        self.cp = _cvxpy(backend)
        self.program, self.backend = program, backend
        self.exact = program.double
        self.ball = self.exact.ball
        _, self.channels, height, width = self.ball.map_shape
        self.num_windows = self.channels * height * width
        self.weights = np.sqrt(np.outer(self.ball.window.taps, self.ball.window.taps).ravel())
        if self.num_windows * self.weights.size > _MAX_TAPS:
            raise InputError(
                f"the oracle holds at most {_MAX_TAPS} window taps per image, "
                f"got {self.num_windows * self.weights.size}: use Dual"
            )
        self.reference = _vector(self.ball.reference)
        self.delta = self.cp.Variable(self.reference.size)
        self.delta_mean = self.cp.Variable(self.num_windows)
        average, gather = window_matrices(self.ball)
        self.gather = sp.block_diag([gather] * self.channels, format="csr")
        patches = self._deviations(self.delta, self.delta_mean)
        self.floor_constraints = self._floor(patches)
        self.mean_constraints = self._mean(patches)
        constraints = [self.delta_mean == sp.block_diag([average] * self.channels, format="csr") @ self.delta]
        constraints += [
            self.delta >= -self.reference,
            self.delta <= 1 - self.reference,
            *self.floor_constraints,
            *self.mean_constraints,
        ]
        self.problem = self.cp.Problem(self.cp.Maximize(self._objective()), constraints)
        self._data, self._chain, self._inverse = self.problem.get_problem_data(backend, solver_opts={})

    def run(self, options: dict[str, float | int | bool | str]) -> None:
        """Solves; how accurately is for the certificate to tell.

        Raises:
            InputError: the backend failed.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            raw = self._chain.solve_via_data(
                self.problem, self._data, warm_start=False, verbose=False, solver_opts=options
            )
            with contextlib.suppress(self.cp.error.SolverError):
                self.problem.unpack_results(raw, self._chain, self._inverse)
        if self.delta.value is None:
            raise InputError(f"{self.backend} gave no answer: {self.problem.status}")

    def answer(self) -> tuple[Tensor, Multipliers]:
        """The perturbation, not yet feasible to the last digit, and the multipliers, in the program's dtype."""
        floor = mean = None
        if (sets := self.ball.floor_sets) is not None:
            duals = (self.floor_constraints[0].dual_value, self.floor_constraints[1].dual_value[0])
            floor = FloorMultipliers(
                *(
                    self._tensor(
                        np.maximum(np.ravel(dual), 0) / (2 * _per_window(level.radius, self.ball)), self.ball.map_shape
                    )
                    for dual, level in zip(duals, (sets.luminance, sets.contrast), strict=True)
                )
            )
        if (ellipsoid := self.ball.ellipsoid) is not None:
            dual = np.maximum(np.ravel(self.mean_constraints[0].dual_value), 0) / (2 * _radius(ellipsoid))
            mean = self._tensor(dual, (1, 1, 1, 1))
        delta = self._tensor(self.delta.value, tuple(self.program.linear.shape))
        return delta, Multipliers(floor, mean)

    def _deviations(self, values: Any, mean: Any) -> Any:
        """`(taps, windows)`: sqrt(w) (v - mean v) over each window, whose norm is the deviation."""
        cp, taps = self.cp, self.weights.size
        weighted = cp.multiply(np.tile(self.weights, self.num_windows), self.gather @ values)
        patches = cp.reshape(weighted, (taps, self.num_windows), "F")
        return patches - self.weights[:, None] @ cp.reshape(mean, (1, self.num_windows), "F")

    def _floor(self, patches: Any) -> list[Any]:
        ball = self.ball
        if (sets := ball.floor_sets) is None:
            return []
        mean_x = _vector(ball.reference_mean)
        x_patches = self._deviations(self.reference, mean_x).value
        luminance_k, contrast_k = (_per_window(level.k, ball) for level in (sets.luminance, sets.contrast))
        mean_radius, deviation_radius = (_per_window(level.radius, ball) for level in (sets.luminance, sets.contrast))
        return [
            self.cp.abs(self.delta_mean - luminance_k * mean_x) <= mean_radius,
            self.cp.SOC(self.cp.Constant(deviation_radius), patches - x_patches * contrast_k, axis=0),
        ]

    def _mean(self, patches: Any) -> list[Any]:
        cp, ellipsoid = self.cp, self.ball.ellipsoid
        if ellipsoid is None:
            return []
        mean_scale, scale = (_per_window(part, self.ball) ** 0.5 for part in (ellipsoid.luminance, ellipsoid.contrast))
        deviations = cp.multiply(np.tile(scale, (self.weights.size, 1)), patches)
        means = cp.multiply(mean_scale, self.delta_mean)
        return [cp.norm(cp.hstack([means, cp.vec(deviations, "F")])) <= _radius(ellipsoid)]

    def _objective(self) -> Any:
        value = _vector(self.exact.linear) @ self.delta
        rho = float(self.exact.rho.flatten()[0])
        if rho == 0:
            return value
        anchor = 0.0 if self.exact.anchor is None else _vector(self.exact.anchor)
        return value - rho / 2 * self.cp.sum_squares(self.delta - anchor)

    def _tensor(self, values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        linear = self.program.linear
        return torch.as_tensor(values, dtype=linear.dtype, device=linear.device).reshape(shape)


def _cvxpy(backend: str) -> Any:
    try:
        import cvxpy  # noqa: PLC0415
    except ImportError:
        raise UnavailableError("the oracle needs cvxpy: pip install 'percep[oracle]'") from None
    installed = [name for name in _BACKENDS if name in cvxpy.installed_solvers()]
    if backend not in installed:
        raise InputError(f"the oracle has no backend {backend!r} here; choose one of {', '.join(installed)}")
    return cvxpy


def window_matrices(ball: SSIMBall) -> "tuple[csr_matrix, csr_matrix]":
    """Of one channel: the local mean, `(windows, pixels)`, and each tap's pixel, `(windows * taps, pixels)`."""
    import scipy.sparse as sp  # noqa: PLC0415  `import percep` does not wait for scipy

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


def _vector(values: Tensor) -> np.ndarray:
    return values.flatten().cpu().numpy()


def _radius(ellipsoid: MeanBall) -> float:
    """Of one image."""
    return math.sqrt(float(ellipsoid.budget.flatten()[0]))


def _per_window(values: Tensor, ball: SSIMBall) -> np.ndarray:
    return _vector(values.expand(ball.map_shape))
