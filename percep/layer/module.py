"""The program over an SSIM ball as a layer: solved in the forward pass, differentiated through its solution."""

import sys
from collections.abc import Callable
from typing import Literal, NoReturn

import torch
from torch import Tensor, nn

from percep.ball.levels import Level
from percep.errors import InputError, UnavailableError
from percep.layer.adjoint import AdjointReport
from percep.layer.implicit import Settings, solve_implicitly
from percep.layer.inputs import Inputs
from percep.layer.unrolled import unrolled
from percep.program import Solution
from percep.solvers import Solver
from percep.validation.scalars import require_positive
from percep.windows import Window

Mode = Literal["implicit", "unrolled"]


class SSIMBallLayer(nn.Module):
    """Maps a reference and a linear term to the `percep.Program`'s solution, differentiably.

        delta = argmax <g, d> - (rho / 2) |d - a|^2   over the SSIM ball of the reference

    Gradients flow to the reference, g, a, rho, the floor and the mean. `mode="implicit"` differentiates the
    optimality conditions (see `percep.layer.adjoint`): one linear solve, matrix-free, memory for a fixed number of
    images. `mode="unrolled"` differentiates through the iterations of `percep.layer.unrolled`, thousands of dense
    solves: a reference for programs of some hundred pixels, and the mode with second derivatives. Its backward pass is
    torch's own: call it outside `torch.autocast`, as torch requires; all else is the same inside and outside.

    `torch.func`'s `vjp`, `grad`, `jacrev`, `functional_call` and `vmap` are supported by the implicit mode (a dimension
    that is mapped over becomes part of the batch), `jvp`, `jacfwd` and `linearize` are not, nor are
    autograd's own batches (`is_grads_batched`). `torch.compile` breaks its graph here.
    An empty batch has an empty result, with gradients of 0.

    With a mean, the set is the ellipsoid of `SSIMBall` and its dependence on the reference is differentiated too;
    it is not expanded again at the solution.

    Where the solution map has kinks (a constraint active with multiplier 0, vertices at rho = 0), and at solutions
    that are only accurate to `tol`, the derivative is that of the program smoothed by logarithmic barriers, whose
    parameter `smoothing` is the least slack of a constraint relative to its squared radius. `proximal > 0` makes
    the program itself smooth, strictly concave in d, and is the recommended way. The derivative is as
    accurate as the solution it is taken at: with a floor and rho = 0 a gap of 1e-3 leaves an error of tens of percent.

    Floats are settings; a tensor given as `floor`, `mean` or `proximal` becomes a buffer and an `nn.Parameter` a
    parameter, so that budgets can be learned and travel in the `state_dict`.

    Args:
        window: the SSIM window, `Window.gaussian()` by default.
        floor, mean: levels as in `SSIMBall`, at least one of them here or in the call.
        proximal: rho, a number or a tensor `()` or `(B,)`.
        tol: relative gap at which the forward solve stops.
        solver: as in `percep.solve`; None takes `InteriorPoint` up to 400 values per image and "dual" beyond.
        smoothing: relative slack below which constraints are smoothed in the backward pass; None is `tol`.
        mode: "implicit" or "unrolled" (which takes no solver, and whose result has the inputs' dtype).
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
        inputs = Inputs(
            reference,
            linear,
            anchor,
            self.proximal if proximal is None else proximal,
            self.floor if floor is None else floor,
            self.mean if mean is None else mean,
        )
        if torch.compiler.is_dynamo_compiling():
            # A graph break: the number of iterations depends on the data. A decorator would import dynamo with percep.
            solution: Solution = torch.compiler.disable(self._solve)(inputs)
            return solution
        return self._solve(inputs)

    def _solve(self, inputs: Inputs) -> Solution:
        inputs = inputs.recordable()
        if self.mode == "unrolled":
            ball = inputs.ball(self.window)
            attached = ball.attached(inputs.reference, inputs.floor, inputs.mean)
            return unrolled(inputs.program(ball), attached, inputs.linear, inputs.anchor, inputs.rho, self.tol)
        settings = Settings(self.window, self.solver, self.tol, self.smoothing, self.on_backward)
        return solve_implicitly(settings, inputs)

    def __prepare_scriptable__(self) -> NoReturn:
        """Called first by `torch.jit.script`, on this module and on one that contains it."""
        raise UnavailableError("torch.jit.script cannot hold a solver: leave the layer out")

    def extra_repr(self) -> str:
        return f"floor={self.floor}, mean={self.mean}, proximal={self.proximal}, tol={self.tol}, mode={self.mode}"


def _refuse_recording() -> None:
    """Raises UnavailableError while torch records operations to repeat them: their number depends on the data."""
    if torch.jit.is_tracing():
        raise UnavailableError("torch.jit.trace would repeat one call's iterations on all inputs: leave the layer out")
    if torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling():
        raise UnavailableError("torch.export holds no loops that end where the data say: leave the layer out")
    # If the module has not been imported, nothing traces with it.
    tracing = sys.modules.get("torch.fx.experimental.proxy_tensor")
    if tracing is not None and tracing.get_proxy_mode() is not None:
        raise UnavailableError(
            "make_fx and torch.func.linearize would repeat one call's iterations on all inputs: "
            "leave the layer out, and take torch.func.vjp for linearize"
        )
