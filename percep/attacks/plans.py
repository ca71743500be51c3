"""The runs of a search: towards the runner-up, towards each of the likely classes, and refinements of the best."""

from itertools import zip_longest

# Gradients of the first run, of each later one, and how many classes are looked at in between.
FIRST, LATER, CLASSES = 12, 28, 8
# A new gradient enters the running average with the share (steps in the run)^-power, at least the least share. The
# average settles; with the smaller power it forgets the gradients far from the boundary and may settle elsewhere.
POWERS = (1.0, 0.6)
# Classes whose tangents ask for this multiple of the best cost are not worth a run.
_DEAR = 3.0


class Plan:
    """What an image's runs are: a first one, a look at the likely classes, one towards each, then refinements.

    Attributes:
        length: gradients of the present run.
        runs: that are over.
        classes: the likely ones, best logit first, without the label.
        scanned: classes still to be looked at.
        costs: of the classes looked at, by their tangents at the reference.
        queue: runs to come, as (class or -1, power).
        dead_ends: runs in a row that ended where no gradient was and made the answer no cheaper.
    """

    def __init__(self, length: int) -> None:
        self.length, self.runs, self.dead_ends = length, 0, 0
        self.classes: list[int] = []
        self.scanned: list[int] = []
        self.costs: dict[int, float] = {}
        self.queue: list[tuple[int, float]] = []

    def rank(self, best: float) -> None:
        """Queues runs towards the classes, the cheapest first; the patient average before the forgetful one."""
        by_cost = sorted(self.costs, key=lambda runner_up: self.costs[runner_up])
        ranked = [runner_up for runner_up in by_cost if self.costs[runner_up] < _DEAR * best]
        runs = [(runner_up, POWERS[0]) for runner_up in ranked]
        again = [(runner_up, POWERS[1]) for runner_up in (-1, *ranked)]
        self.queue = [run for pair in zip_longest(runs, again) for run in pair if run is not None]
