"""The runs of a search: towards the runner-up, towards each likely class, and refinements of the best perturbation."""

from collections.abc import Generator
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

ANY_CLASS = -1
# Most gradients of a first run after which classes are scanned, and of any other run.
_FIRST, _LATER = 12, 28
# A new gradient enters the running average with the share steps ** -power, at least the least share. The average
# converges; with the smaller power it forgets the gradients far from the boundary and may converge elsewhere.
POWERS = (1.0, 0.6)
# Classes whose cost by the tangent is this multiple of the best cost are not worth a run.
_TOO_COSTLY = 3.0
# A later run ends if its best cost after so many steps is above this multiple of the image's best.
_HOPELESS, _PATIENCE = 1.3, 10
# An image's search ends after so many runs in a row without a gradient and without a better perturbation.
_DEAD_ENDS = 3


@dataclass(frozen=True)
class Run:
    """A part of an image's search, between two restarts.

    Attributes:
        runner_up: the class whose logit is to exceed the label's, or `ANY_CLASS`.
        power: of the running average, one of `POWERS`.
        length: most steps.
        patience: steps after which it ends if its best cost is far above the image's.
        scans: whether it is a single step, which estimates a class's cost by its tangent.
        refines: whether it starts from the image's best perturbation; others start from the reference.
        queued: runs towards classes that are still to come.
    """

    runner_up: int = ANY_CLASS
    power: float = POWERS[0]
    length: int = _LATER
    patience: int = _PATIENCE
    scans: bool = False
    refines: bool = False
    queued: int = 0


class RunEnd(NamedTuple):
    """What is known when a run is over.

    Attributes:
        best_cost: of the image, infinite before an adversarial image is found.
        likely: classes in order of their logits at the reference, without the label; empty if none are scanned.
        tangent_cost: of the perturbation at which a scanning run ended; None without a gradient or for another run.
    """

    best_cost: float
    likely: list[int]
    tangent_cost: float | None


class Schedule:
    """The sequence of an image's runs, chosen as the results of earlier ones become known.

    Attributes:
        run: the current one.
        likely: classes to be scanned after the first run, as in `RunEnd`; empty until they are known.
    """

    def __init__(self, scans: bool) -> None:
        self._runs = _runs(_FIRST if scans else _LATER)
        self.run = next(self._runs)
        self.likely: list[int] = []
        self._dead_ends, self._dead_end_cost = 0, float("inf")

    def is_over(self, steps: int, run_cost: float, best_cost: float) -> bool:
        """Whether the current run ends, given its steps, its best cost and the image's best cost."""
        hopeless = steps >= self.run.patience and run_cost > _HOPELESS * best_cost
        return steps >= self.run.length or hopeless

    def advance(self, best_cost: float, tangent_cost: float | None = None) -> Run:
        """Starts the next run, and returns it."""
        self.run = self._runs.send(RunEnd(best_cost, self.likely, tangent_cost))
        return self.run

    def leave_dead_end(self, best_cost: float) -> Run | None:
        """The run after one that ended without a gradient; None if no further run is worthwhile."""
        if not self.run.scans:
            self._dead_ends = 1 if best_cost < self._dead_end_cost else self._dead_ends + 1
            self._dead_end_cost = best_cost
            if self._dead_ends >= _DEAD_ENDS and not self.run.queued:
                return None
        return self.advance(best_cost)


def _runs(first: int) -> Generator[Run, RunEnd, None]:
    """A first run of `first` steps, one step towards each likely class, runs towards the cheapest, then refinements."""
    end = yield Run(length=first, patience=first)
    if len(likely := end.likely) > 1:
        costs = {}
        for runner_up in likely:
            end = yield Run(runner_up, length=1, scans=True)
            if end.tangent_cost is not None:
                costs[runner_up] = end.tangent_cost
        queue = _ranked(costs, end.best_cost)
        for place, (runner_up, power) in enumerate(queue, start=1):
            yield Run(runner_up, power, queued=len(queue) - place)
    while True:
        yield Run(refines=True)


def _ranked(costs: dict[int, float], best_cost: float) -> list[tuple[int, float]]:
    """Runs as (class, power): towards the cheapest classes first, with the larger power before the smaller one."""
    by_cost = sorted(costs, key=lambda runner_up: costs[runner_up])
    ranked = [runner_up for runner_up in by_cost if costs[runner_up] < _TOO_COSTLY * best_cost]
    runs = [(runner_up, POWERS[0]) for runner_up in ranked]
    again = [(runner_up, POWERS[1]) for runner_up in (ANY_CLASS, *ranked)]
    return [run for pair in zip_longest(runs, again) for run in pair if run is not None]
