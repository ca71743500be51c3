"""The layer's implicit mode: autograd functions for a program's solution and for its adjoint.

The backward pass gets what it needs of the forward pass as tensors that autograd saves: the solution, and the local
moments of the reference, from which the constraints follow without another pass over the image. Nothing else is kept,
so hooks on saved tensors and activation checkpointing see all of the memory.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from percep.errors import AdjointWarning, UnavailableError
from percep.layer.adjoint import DENSE_PIXELS, AdjointReport, solve_adjoint
from percep.layer.folding import Folding
from percep.layer.inputs import Inputs
from percep.program import Multipliers, Program, Solution, Status
from percep.solvers import Solver, solve
from percep.solvers.interior_point import InteriorPoint
from percep.windows import Window


@dataclass(frozen=True)
class Settings:
    """How to solve programs and their adjoints; the attributes are those of `SSIMBallLayer`."""

    window: Window
    solver: str | Solver | None
    tol: float
    smoothing: float
    on_backward: Callable[[AdjointReport], None] | None

    @property
    def adjoint_tolerance(self) -> float:
        """Relative residual at which the adjoint solve stops; the error of d is of order sqrt(tol), too."""
        return 0.3 * math.sqrt(self.tol)

    def solve(self, program: Program) -> Solution:
        """The solution of the forward pass."""
        solver = self.solver
        if solver is None:
            small = program.ball.reference.shape[1:].numel() <= DENSE_PIXELS
            solver = InteriorPoint() if small else "dual"
        return solve(program, solver, self.tol)


def solve_implicitly(settings: Settings, inputs: Inputs) -> Solution:
    """The solution, whose `delta` is differentiable in the inputs, once."""
    call = _Call(settings)
    delta, *_ = _Implicit.apply(call, *inputs)
    return replace(call.solved, delta=delta)


@dataclass
class _Call:
    """The settings of one call, and its solution once the forward pass has run.

    An object, since `torch.func` copies lists and tuples that it passes on.
    """

    settings: Settings
    solution: Solution | None = None

    @property
    def solved(self) -> Solution:
        """The solution, after the forward pass."""
        assert self.solution is not None
        return self.solution


class _Saved(NamedTuple):
    """What the backward pass needs of the forward pass, `None` where the program has no such constraint.

    Attributes:
        delta: `(B, C, H, W)`.
        luminance, contrast, mean: multipliers as in `Multipliers`.
        reference_mean, reference_variance: local moments of the reference, `(B, C, h, w)` float64.
    """

    delta: Tensor
    luminance: Tensor | None
    contrast: Tensor | None
    mean: Tensor | None
    reference_mean: Tensor
    reference_variance: Tensor

    @property
    def multipliers(self) -> Multipliers:
        return Multipliers.of(self.luminance, self.contrast, self.mean)


class _Implicit(torch.autograd.Function):
    """The tensors of an `_Saved`; the backward pass of its perturbation is the adjoint.

    The forward pass leaves the whole `Solution` in the call.
    """

    @staticmethod
    def forward(call: _Call, *values: Any) -> tuple[Tensor | None, ...]:
        inputs = Inputs(*values)
        ball = inputs.ball(call.settings.window)
        # Before the solver, which selects images of the ball and with them the moments.
        moments = ball.reference_moments
        call.solution = solution = call.settings.solve(inputs.program(ball))
        return solution.delta, *solution.multipliers.tensors(), *moments

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        call, *values = inputs
        ctx.settings, ctx.status = call.settings, call.solved.status
        ctx.plain = [None if isinstance(value, Tensor) else value for value in values]
        ctx.save_for_backward(*output, *(value if isinstance(value, Tensor) else None for value in values))
        ctx.mark_non_differentiable(*(part for part in output[1:] if part is not None))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if cotangent is None:
            return (None,) * len(ctx.needs_input_grad)
        if is_legacy_batchedtensor(cotangent):
            raise UnavailableError(
                "autograd's own batches (is_grads_batched, jacobian(vectorize=True)) are not supported: "
                "take torch.func.jacrev, or torch.vmap over torch.func.vjp"
            )
        # Once: a checkpoint unpacks what it has saved a single time.
        saved, size = ctx.saved_tensors, len(_Saved._fields)
        solution = saved[:size]
        inputs = (plain if value is None else value for plain, value in zip(ctx.plain, saved[size:], strict=True))
        needed = ctx.needs_input_grad[1:]
        return None, *_Adjoint.apply(ctx.settings, ctx.status, needed, cotangent, *solution, *inputs)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:
        raise UnavailableError("the layer has no forward-mode derivatives: take vjp or jacrev for jvp or jacfwd")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], call: _Call, *values: Any) -> tuple[Any, Any]:
        folded = Folding.of(info.batch_size, values[0], in_dims[1])
        return folded.unfold(_Implicit.apply(call, *folded.inputs(values, in_dims[1:])))


class _Adjoint(torch.autograd.Function):
    """The gradients of an `_Saved` in its inputs, for a cotangent: a function, so that `torch.func` can map over it.

    Its arguments are the settings, the status of each image, which inputs need a gradient, the cotangent, the tensors
    of the `_Saved`, and the inputs.
    """

    @staticmethod
    def forward(
        settings: Settings, status: tuple[Status, ...], needed: tuple[bool, ...], cotangent: Tensor, *values: Any
    ) -> tuple[Tensor | None, ...]:
        size = len(_Saved._fields)
        inputs = Inputs(
            *(
                value.detach().requires_grad_(need) if isinstance(value, Tensor) else value
                for value, need in zip(values[size:], needed, strict=True)
            )
        )
        gradients = iter(_gradients(settings, status, inputs, _Saved(*values[:size]), cotangent))
        return tuple(next(gradients) if need else None for need in needed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise UnavailableError(
            "the layer's implicit mode is once_differentiable: take mode='unrolled' for derivatives of derivatives"
        )

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:
        _Adjoint.backward(ctx)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        settings: Settings,
        status: tuple[Status, ...],
        needed: tuple[bool, ...],
        *values: Any,
    ) -> tuple[Any, Any]:
        # The cotangent and the saved tensors have the batch as their first axis; the inputs follow.
        size, dims = 1 + len(_Saved._fields), in_dims[3:]
        folded = Folding.of(info.batch_size, values[0], dims[0])
        gradients = _Adjoint.apply(
            settings,
            status,
            needed,
            *(folded.fold(value, dim) for value, dim in zip(values[:size], dims[:size], strict=True)),
            *folded.inputs(values[size:], dims[size:]),
        )
        return folded.gradients(gradients, values[size:], dims[size:])


def _gradients(
    settings: Settings, status: tuple[Status, ...], inputs: Inputs, solution: _Saved, cotangent: Tensor
) -> tuple[Tensor, ...]:
    """Gradients in those inputs that require one, in their order."""
    sources = [value for value in inputs if isinstance(value, Tensor) and value.requires_grad]
    if not len(inputs.reference):
        return tuple(torch.zeros_like(value) for value in sources)
    ball = inputs.ball(settings.window)
    ball = ball.with_reference_moments(solution.reference_mean, solution.reference_variance)
    program = inputs.program(ball)
    if not bool((finite := program.finite).all()):
        with torch.enable_grad():
            inputs = inputs.finite_part(finite)
        program = inputs.program(ball)
    finite_cotangent = torch.isfinite(cotangent).flatten(1).all(1)
    usable = finite_cotangent & finite
    state, residual, steps = solve_adjoint(
        program,
        solution.delta,
        solution.multipliers,
        torch.where(usable.reshape(-1, 1, 1, 1), cotangent, 0.0),
        settings.smoothing,
        settings.adjoint_tolerance,
    )
    # A cotangent that is not finite gives gradients that are not.
    direction = torch.where((finite_cotangent | ~finite).reshape(-1, 1, 1, 1), state.direction, torch.nan)
    _report(settings, status, torch.where(usable, residual, torch.nan), steps)
    with torch.enable_grad():
        # The moments of the reference are computed again only where they are differentiated.
        reference = inputs.reference if inputs.reference.requires_grad else None
        attached = ball.attached(reference, inputs.floor, inputs.mean)
        contraction = replace(state, direction=direction).contract(
            attached, inputs.linear, inputs.anchor, inputs.rho, solution.delta, solution.multipliers
        )
    return torch.autograd.grad(contraction, sources, materialize_grads=True)


def _report(settings: Settings, status: tuple[Status, ...], residual: Tensor, steps: int) -> None:
    """Reports the adjoint, and warns where it is not accurate."""
    # Under `torch.func.vmap` over cotangents the batch repeats the forward solutions.
    status = status * (len(residual) // len(status))
    solved = torch.tensor([state is Status.SOLVED for state in status], device=residual.device)
    report = AdjointReport(residual, settings.adjoint_tolerance, steps, settings.smoothing, solved)
    if not bool(report.accurate.all()):
        inaccurate = [
            f"image {image}: forward {status[image]}, adjoint residual {float(residual[image]):.1e}"
            for image in torch.nonzero(~report.accurate).flatten().tolist()
        ]
        warnings.warn(
            f"inaccurate derivative (asked for a residual of {report.tolerance:.1e}); " + "; ".join(inaccurate),
            AdjointWarning,
            stacklevel=2,
        )
    if settings.on_backward is not None:
        settings.on_backward(report)
