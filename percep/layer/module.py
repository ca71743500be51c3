"""The program over an SSIM ball as a layer: solved in the forward pass, differentiated through its solution."""

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor

from percep.ball import Level, SSIMBall
from percep.errors import AdjointWarning, InputError, UnavailableError
from percep.layer.adjoint import DENSE_PIXELS, AdjointReport, solve_adjoint
from percep.layer.folding import Folding
from percep.layer.unrolled import unrolled
from percep.program import Multipliers, Program, Solution, Status
from percep.solvers import Solver, solve
from percep.solvers.interior_point import InteriorPoint
from percep.validation.scalars import require_positive
from percep.windows import Window

Mode = Literal["implicit", "unrolled"]


class SSIMBallLayer(nn.Module):
    """Maps a reference and a linear term to the `percep.Program`'s solution, differentiably.

        delta = argmax <g, d> - (rho / 2) |d - a|^2   over the SSIM ball of the reference

    The gradient reaches the reference, g, a, rho, the floor and the mean. `mode="implicit"` differentiates the
    optimality conditions (see `percep.layer.adjoint`): one linear solve, matrix-free, memory for a fixed number of
    images. `mode="unrolled"` lets autograd go through `percep.layer.unrolled`, thousands of dense solves: a reference
    for programs of some hundred pixels, and the one with derivatives of derivatives. Its backward pass is torch's own:
    call it outside `torch.autocast`, as torch asks; all else is the same inside and outside.

    `torch.func`'s `vjp`, `grad`, `jacrev`, `functional_call` and `vmap` are supported by the implicit mode (a dimension
    that is mapped over becomes part of the batch), `jvp`, `jacfwd` and `linearize` are not, nor are
    autograd's own batches (`is_grads_batched`). `torch.compile` breaks its graph here.
    An empty batch has an empty answer, with gradients of 0.

    With a mean, the set is the ellipsoid of `SSIMBall` and its dependence on the reference is differentiated too;
    it is not expanded again at the answer.

    Where the solution map has kinks (a constraint active with multiplier 0, vertices at rho = 0), and at answers
    that are only accurate to `tol`, the derivative is that of the program smoothed by logarithmic barriers, whose
    parameter `smoothing` is the least slack of a constraint relative to its squared radius. `proximal > 0` makes
    the program itself smooth, strictly concave in d, and is the recommended way. The derivative is as good as the
    answer it is taken at: with the floor and rho = 0 a gap of 1e-3 leaves it tens of percent of error.

    Floats are settings; a tensor given as `floor`, `mean` or `proximal` becomes a buffer and an `nn.Parameter` a
    parameter, so that budgets can be learned and travel in the `state_dict`.

    Args:
        window: the SSIM window, `Window.gaussian()` by default.
        floor, mean: levels as in `SSIMBall`, at least one of them here or in the call.
        proximal: rho, a number or a tensor `()` or `(B,)`.
        tol: relative gap at which the forward solve stops.
        solver: as in `percep.solve`; None takes `InteriorPoint` up to 400 values per image and "dual" beyond.
        smoothing: relative slack below which constraints are smoothed in the backward pass; None is `tol`.
        mode: "implicit" or "unrolled" (which takes no solver and answers in the dtype it is given).
        on_backward: called with an `AdjointReport` after each backward pass. An image whose adjoint is not
            accurate is warned about (`AdjointWarning`) in any case.

    Raises:
        InputError: a `tol` or `smoothing` that is not positive, an unknown mode.
    """

    floor: Level | None
    mean: Level | None
    proximal: float | Tensor

    def __init__(
        self,
        window: Window | None = None,
        floor: Level | None = None,
        mean: Level | None = None,
        proximal: float | Tensor = 0.0,
        tol: float = 1e-3,
        solver: str | Solver | None = None,
        smoothing: float | None = None,
        mode: Mode = "implicit",
        on_backward: Callable[[AdjointReport], None] | None = None,
    ) -> None:
        super().__init__()
        tol = require_positive("tol", tol)
        smoothing = tol if smoothing is None else require_positive("smoothing", smoothing)
        if mode not in ("implicit", "unrolled"):
            raise InputError(f"mode must be 'implicit' or 'unrolled', got {mode!r}")
        self.window = Window.gaussian() if window is None else window
        self.tol, self.solver, self.mode, self.on_backward = tol, solver, mode, on_backward
        self.smoothing = smoothing
        for name, value in (("floor", floor), ("mean", mean), ("proximal", proximal)):
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(
        self,
        reference: Tensor | tuple[Tensor, ...],
        linear: Tensor | None = None,
        anchor: Tensor | None = None,
        *,
        floor: Level | None = None,
        mean: Level | None = None,
        proximal: float | Tensor | None = None,
    ) -> Tensor:
        """The perturbation `(B, C, H, W)`, strictly inside the ball whatever the solver's status.

        Args:
            reference: `(B, C, H, W)` in [0, 1]; or a tuple `(reference, linear)` or `(reference, linear, anchor)`,
                as a module before it in an `nn.Sequential` hands it on.
            linear: g, of the reference's shape and dtype.
            anchor: a, likewise; None is 0.
            floor, mean, proximal: in place of the layer's own.

        Raises:
            InputError: as `SSIMBall`, `Program` and `solve` do.
            UnavailableError: inside `torch.jit.trace`, `torch.export`, `make_fx`, forward-mode or second derivatives.
        """
        if isinstance(reference, tuple):
            return self.forward(*reference, floor=floor, mean=mean, proximal=proximal)
        if linear is None:
            raise InputError("the layer needs a reference and a linear term")
        return self.solve(reference, linear, anchor, floor=floor, mean=mean, proximal=proximal).delta

    def solve(
        self,
        reference: Tensor,
        linear: Tensor,
        anchor: Tensor | None = None,
        *,
        floor: Level | None = None,
        mean: Level | None = None,
        proximal: float | Tensor | None = None,
    ) -> Solution:
        """As `forward`, returning the whole `Solution`; its `delta` is differentiable, its figures are not."""
        _refuse_recording()
        inputs = _Inputs(
            reference,
            linear,
            anchor,
            self.proximal if proximal is None else proximal,
            self.floor if floor is None else floor,
            self.mean if mean is None else mean,
        )
        if torch.compiler.is_dynamo_compiling():
            # A graph break: the solver's loops end where the numbers say. At import it would import dynamo.
            solution: Solution = torch.compiler.disable(self._solve)(inputs)
            return solution
        return self._solve(inputs)

    def _solve(self, inputs: "_Inputs") -> Solution:
        inputs = inputs.recordable()
        if self.mode == "unrolled":
            program = inputs.program(self.window)
            return unrolled(program, inputs.attached(program), inputs.linear, inputs.anchor, inputs.rho, self.tol)
        work = _Work(
            self.window, self.solver, self.tol, self.smoothing, 0.3 * math.sqrt(self.tol), on_backward=self.on_backward
        )
        delta, *_ = _Implicit.apply(work, *inputs)
        assert work.solution is not None
        return replace(work.solution, delta=delta)

    def __prepare_scriptable__(self) -> NoReturn:
        """What `torch.jit.script` asks a module for first, inside other modules as well."""
        raise UnavailableError("torch.jit.script cannot hold a solver: leave the layer out")

    def extra_repr(self) -> str:
        return f"floor={self.floor}, mean={self.mean}, proximal={self.proximal}, tol={self.tol}, mode={self.mode}"


class _Inputs(NamedTuple):
    """What the solution depends on; numbers and None where autograd has nothing to do."""

    reference: Tensor
    linear: Tensor
    anchor: Tensor | None
    proximal: float | Tensor
    floor: Level | None
    mean: Level | None

    def program(self, window: Window) -> Program:
        """The program, cut off from the graph."""
        anchor = None if self.anchor is None else self.anchor.detach()
        rho = self.proximal.detach() if isinstance(self.proximal, Tensor) else self.proximal
        return Program(SSIMBall(self.reference, self.floor, self.mean, window), self.linear.detach(), rho, anchor)

    def recordable(self) -> "_Inputs":
        """These inputs, with copies of those made under inference mode where autograd may have to save them."""
        if torch.is_inference_mode_enabled():
            return self
        made: dict[str, Any] = {
            name: value.clone()
            for name, value in self._asdict().items()
            if isinstance(value, Tensor) and value.is_inference()
        }
        return self._replace(**made)

    def where(self, finite: Tensor) -> "_Inputs":
        """These inputs, with 0 in the images that are not finite."""
        mask = finite.reshape(-1, 1, 1, 1)
        return self._replace(
            reference=torch.where(mask, self.reference, 0.0),
            linear=torch.where(mask, self.linear, 0.0),
            anchor=None if self.anchor is None else torch.where(mask, self.anchor, 0.0),
        )

    def attached(self, program: Program) -> SSIMBall:
        """The program's ball, in the graph."""
        return program.ball.attached(self.reference, self.floor, self.mean)

    @property
    def rho(self) -> Tensor:
        """`(B, 1, 1, 1)`, in the graph."""
        rho = torch.as_tensor(self.proximal, dtype=self.linear.dtype, device=self.linear.device)
        return rho.expand(len(self.linear)).reshape(-1, 1, 1, 1)


@dataclass
class _Work:
    """How to answer one call and its adjoint; the forward pass leaves its answer here."""

    window: Window
    solver: str | Solver | None
    tol: float
    smoothing: float
    tolerance: float
    on_backward: Callable[[AdjointReport], None] | None
    solution: Solution | None = None

    def solve(self, program: Program) -> Solution:
        solver = self.solver
        if solver is None:
            small = program.ball.reference.shape[1:].numel() <= DENSE_PIXELS
            solver = InteriorPoint() if small else "dual"
        return solve(program, solver, self.tol)


class _Implicit(torch.autograd.Function):
    """A solution's perturbation and multipliers; the backward pass of the first is the adjoint."""

    @staticmethod
    def forward(work: _Work, *inputs: Any) -> tuple[Tensor | None, ...]:
        work.solution = solution = work.solve(_Inputs(*inputs).program(work.window))
        assert solution.multipliers is not None
        return solution.delta, *solution.multipliers.tensors()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.work, *values = inputs
        ctx.plain = [None if isinstance(value, Tensor) else value for value in values]
        ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in values), *output)
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
        *saved, delta, luminance, contrast, mean = ctx.saved_tensors
        inputs = (plain if value is None else value for plain, value in zip(ctx.plain, saved, strict=True))
        answer = (cotangent, delta, luminance, contrast, mean)
        return None, *_Adjoint.apply(ctx.work, ctx.needs_input_grad[1:], *answer, *inputs)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:
        raise UnavailableError("the layer has no forward-mode derivatives: take vjp or jacrev for jvp or jacfwd")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], work: _Work, *inputs: Any) -> tuple[Any, Any]:
        folded = Folding.of(info.batch_size, inputs[0], in_dims[1])
        answer = _Implicit.apply(work, *folded.inputs(inputs, in_dims[1:]))
        return folded.unfold(answer)


class _Adjoint(torch.autograd.Function):
    """The gradients of a solution in its inputs, for a cotangent: a function, so that `torch.func` can map over it."""

    @staticmethod
    def forward(work: _Work, wanted: tuple[bool, ...], cotangent: Tensor, *values: Any) -> tuple[Tensor | None, ...]:
        delta, luminance, contrast, mean, *rest = values
        inputs = _Inputs(
            *(
                value.detach().requires_grad_(needed) if isinstance(value, Tensor) else value
                for value, needed in zip(rest, wanted, strict=True)
            )
        )
        gradients = iter(_gradients(inputs, delta, Multipliers.of(luminance, contrast, mean), cotangent, work))
        return tuple(next(gradients) if needed else None for needed in wanted)

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
        info: Any, in_dims: tuple[Any, ...], work: _Work, wanted: tuple[bool, ...], *values: Any
    ) -> tuple[Any, Any]:
        answer, inputs, dims = values[:5], values[5:], in_dims[2:]
        folded = Folding.of(info.batch_size, answer[0], dims[0])
        gradients = _Adjoint.apply(
            work,
            wanted,
            *(folded.fold(value, dim) for value, dim in zip(answer, dims[:5], strict=True)),
            *folded.inputs(inputs, dims[5:]),
        )
        return folded.gradients(gradients, inputs, dims[5:])


def _refuse_recording() -> None:
    """Raises UnavailableError where torch records operations to repeat them: how many a solver takes is in the data."""
    if torch.jit.is_tracing():
        raise UnavailableError("torch.jit.trace would repeat one call's iterations on all inputs: leave the layer out")
    if torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling():
        raise UnavailableError("torch.export holds no loops that end where the data say: leave the layer out")
    # Where nobody has imported it, nobody traces with it.
    tracing = sys.modules.get("torch.fx.experimental.proxy_tensor")
    if tracing is not None and tracing.get_proxy_mode() is not None:
        raise UnavailableError(
            "make_fx and torch.func.linearize would repeat one call's iterations on all inputs: "
            "leave the layer out, and take torch.func.vjp for linearize"
        )


def _gradients(
    inputs: _Inputs, delta: Tensor, multipliers: Multipliers, cotangent: Tensor, work: _Work
) -> tuple[Tensor, ...]:
    """Gradients in those inputs that require one, in their order."""
    if not len(inputs.reference):
        return tuple(torch.zeros_like(value) for value in inputs if isinstance(value, Tensor) and value.requires_grad)
    sources = [value for value in inputs if isinstance(value, Tensor) and value.requires_grad]
    program = inputs.program(work.window)
    if not bool((finite := program.finite).all()):
        with torch.enable_grad():
            inputs = inputs.where(finite)
        program = inputs.program(work.window)
    finite_cotangent = torch.isfinite(cotangent).flatten(1).all(1)
    finite_part = torch.where((finite_cotangent & finite).reshape(-1, 1, 1, 1), cotangent, 0.0)
    state, residual, steps = solve_adjoint(program, delta, multipliers, finite_part, work.smoothing, work.tolerance)
    # A cotangent that is not finite gives gradients that are not.
    direction = torch.where((finite_cotangent | ~finite).reshape(-1, 1, 1, 1), state.direction, torch.nan)
    _report(work, torch.where(finite_cotangent & finite, residual, torch.nan), steps)
    with torch.enable_grad():
        contraction = replace(state, direction=direction).contract(
            inputs.attached(program), inputs.linear, inputs.anchor, inputs.rho, delta, multipliers
        )
    return torch.autograd.grad(contraction, sources, materialize_grads=True)


def _report(work: _Work, residual: Tensor, steps: int) -> None:
    """Reports the adjoint, and warns where it is not accurate."""
    assert work.solution is not None
    # A cotangent mapped over by `torch.func` has the same answers once more.
    status = work.solution.status * (len(residual) // len(work.solution.status))
    solved = torch.tensor([state is Status.SOLVED for state in status], device=residual.device)
    report = AdjointReport(residual, work.tolerance, steps, work.smoothing, solved)
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
    if work.on_backward is not None:
        work.on_backward(report)
