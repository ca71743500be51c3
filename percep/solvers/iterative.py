"""The loop that all iterative solvers share: iterations, certificates, and removal of solved images.

A new iterative solver is one file with two classes, of which `percep.solvers.projected_gradient` is the shortest
example; its line in `percep.solvers.SOLVERS` gives it a name, and runs the tests of degenerate programs on it.

1. Its settings, a frozen dataclass that derives from `IterativeSolver`, with the fields `max_iterations` and
   `check_every` and an `init` that makes the initial iterate.
2. Its `Iterate`: what is carried from one iteration to the next, for the unsolved images, and four methods.
   `maximise` and `update` are the two halves of an iteration: a perturbation at fixed dual variables, then the dual
   variables. `candidate` is what may be certified between the two. `select` keeps some of the images.

Everything else is done here. The loop restores a candidate to feasibility, keeps the best objective and the least
bound of each image, and drops the images whose gap is small enough; `Solver.solve` around it checks arguments, scales
programs to order 1 and leaves out images that are not finite. A wrong solver is slow or has loose bounds, but its
solutions are feasible, and its bounds valid if they come from `lagrangian.dual_bound` or `patches.copies_bound`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from percep.program import Multipliers, Program, Solution
from percep.solvers.feasibility import restore_feasibility
from percep.solvers.incumbents import Incumbents
from percep.solvers.solver import Solver
from percep.validation.scalars import require_integer

_MAX_TIGHTENING = 1e-3


class Candidate(NamedTuple):
    """What is certified of an iterate, for its `B` images.

    Attributes:
        delta: perturbations `(B, C, H, W)`, nearly feasible.
        bound: `(B,)` float64, upper bounds on the optima, by weak duality from `multipliers`.
        multipliers: at least 0, in the program's dtype.
    """

    delta: Tensor
    bound: Tensor
    multipliers: Multipliers


class Iterate(ABC):
    """What a solver carries from one iteration to the next, for the unsolved images; changed in place.

    Attributes:
        program: of those images.
        tightening: the share of the tolerance by which squared radii are reduced when a candidate's windows are
            restored to feasibility: a larger share changes the candidate more, a smaller one needs more rounds.
    """

    program: Program
    tightening: ClassVar[float] = 0.05

    def wants_certificate(self, iteration: int) -> bool:
        """Whether to certify in an iteration, counted from 1, that is neither due by `check_every` nor the last."""
        return False

    def step(self) -> None:
        """An iteration without a certificate: its two halves, unless a solver has a cheaper way."""
        self.maximise()
        self.update(None)

    @abstractmethod
    def maximise(self) -> None:
        """The first half of an iteration: a perturbation at the current dual variables."""

    @abstractmethod
    def candidate(self) -> Candidate:
        """What to certify; called between `maximise` and `update`."""

    @abstractmethod
    def update(self, gap: Tensor | None) -> None:
        """The second half of an iteration: the dual variables.

        Args:
            gap: `(B,)` float64, the least gap of each image so far where this iteration was certified, else None.
        """

    @abstractmethod
    def select(self, images: Tensor) -> Self:
        """The iterate of some of its images, `(B,)` bool; the loop continues with it after a certificate."""


class IterativeSolver(Solver):
    """Iterates until every image's certified gap is small enough.

    Attributes:
        max_iterations: iterations after which an unsolved image has the status `iteration_limit`, at least 1.
        check_every: iterations between certificates, at least 1.

    Raises:
        InputError: one of the two is not such an integer.
    """

    max_iterations: int
    check_every: int

    def __post_init__(self) -> None:
        for name in ("max_iterations", "check_every"):
            require_integer(name, getattr(self, name), least=1)

    @abstractmethod
    def init(self, program: Program, tol: float, warm_start: Solution | None) -> Iterate:
        """The initial iterate. Arguments and errors are those of `Solver.answer`."""

    def answer(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        """See `Solver.answer`."""
        iterate = self.init(program, tol, warm_start)
        incumbents = Incumbents(program)
        images = torch.arange(program.ball.batch, device=program.linear.device)
        for iteration in range(1, self.max_iterations + 1):
            if not self._is_certified(iterate, iteration):
                iterate.step()
                continue
            iterate.maximise()
            gap = _certify(incumbents, images, iterate, tol, iteration)
            if not bool((unsolved := ~(gap <= tol)).all()):
                images, gap = images[unsolved], gap[unsolved]
                if not len(images):
                    break
                iterate = iterate.select(unsolved)
            iterate.update(gap)
        return incumbents.solution(tol)

    def _is_certified(self, iterate: Iterate, iteration: int) -> bool:
        due = iteration % self.check_every == 0 or iteration == self.max_iterations
        return due or iterate.wants_certificate(iteration)


def _certify(incumbents: Incumbents, images: Tensor, iterate: Iterate, tol: float, iteration: int) -> Tensor:
    """The gaps `(len(images),)` of the incumbents, the iterate's candidate included."""
    program, candidate = iterate.program, iterate.candidate()
    tightening = min(_MAX_TIGHTENING, iterate.tightening * tol)
    delta = restore_feasibility(program.ball, candidate.delta, tightening)
    return incumbents.update_with_bound(images, program, delta, candidate.bound, candidate.multipliers, iteration)
