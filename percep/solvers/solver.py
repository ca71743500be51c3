"""What every solver shares: the checks of a program before it, and batches that no image can spoil around it."""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from percep.errors import InputError
from percep.program import FloorMultipliers, Multipliers, Program, Solution, Status
from percep.validation.scalars import require_positive

# Values of a batch that a CPU works on at a time: its tensors then stay in the cache of one core.
_CACHED = 2**17


class Solver(ABC):
    """A frozen object of settings. A new solver is a subclass with an `answer`; users call `solve`."""

    @torch.no_grad()
    def solve(self, program: Program, tol: float = 1e-3, warm_start: Solution | None = None) -> Solution:
        """`percep.solve` by this solver: arguments, answer and errors are the same.

        An image without an answer in `warm_start` (not finite, or of a linear term of 0) starts anew.
        """
        tol = require_positive("tol", tol)
        if warm_start is not None:
            _check_fit(program, warm_start)
        finite = program.finite
        normalized, unit = program.normalized()
        images = torch.nonzero(finite & (unit > 0)).flatten()
        groups = _groups(program, images, warm_start)
        if len(groups) == 1 and len(images) == program.ball.batch:
            return _in_units(self.answer(normalized, tol, groups[0][1]), program, unit)
        # Where the linear term is 0, d = 0 is optimal and the bound of zero multipliers is exact.
        delta = torch.zeros_like(program.linear)
        objective = torch.where(finite, 0.0, torch.nan).to(torch.float64)
        status = [Status.SOLVED if ok else Status.NOT_FINITE for ok in finite.tolist()]
        iterations = torch.zeros(len(status), dtype=torch.int64, device=delta.device)
        multipliers = _zero_multipliers(program)
        answer = Solution(
            delta, objective, objective.clone(), objective.clone(), tuple(status), iterations, multipliers
        )
        for group, earlier in groups:
            part = self.answer(normalized.select(group), tol, earlier)
            answer.update(group, _in_units(part, program, unit[group]))
            for image, state in zip(group.tolist(), part.status, strict=True):
                status[image] = state
        return replace(answer, status=tuple(status))

    @abstractmethod
    def answer(self, program: Program, tol: float, warm_start: Solution | None) -> Solution:
        """Answers every image of a batch: at least one, of finite data and with linear terms of order 1.

        Args:
            program: such a program.
            tol: positive.
            warm_start: one earlier answer per image, with multipliers that are finite and not all 0.

        Raises:
            InputError: a program that this solver cannot hold.
        """


def _check_fit(program: Program, warm_start: Solution) -> None:
    linear, ball = program.linear, program.ball
    found = warm_start.delta
    if found.shape != linear.shape or found.device != linear.device:
        raise InputError(
            f"warm_start must answer a program of the same shape, {tuple(linear.shape)} on {linear.device}, "
            f"got {tuple(found.shape)} on {found.device}"
        )
    if warm_start.multipliers is None:
        return
    for name, wanted in (
        ("luminance", None if ball.floor is None else ball.map_shape),
        ("contrast", None if ball.floor is None else ball.map_shape),
        ("mean", None if ball.mean is None else (ball.batch, 1, 1, 1)),
    ):
        values = getattr(warm_start.multipliers, name)
        if (None if values is None else tuple(values.shape)) != wanted:
            raise InputError(
                "warm_start must answer a program over a ball with the same window and the same kinds of level "
                f"(floor, mean): its multipliers differ in {name}"
            )


def _usable(warm_start: Solution) -> Tensor:
    """`(B,)` bool: which images have an answer to start from."""
    usable = torch.isfinite(warm_start.delta).flatten(1).all(1)
    total = torch.zeros_like(warm_start.objective)
    if warm_start.multipliers is not None:
        for values in warm_start.multipliers.present():
            usable = usable & ((values >= 0) & torch.isfinite(values)).flatten(1).all(1)
            total = total + values.flatten(1).sum(1)
    return usable & (total > 0)


def _groups(program: Program, images: Tensor, warm_start: Solution | None) -> list[tuple[Tensor, Solution | None]]:
    """Images to be solved together, with their earlier answers: on a CPU no more than fit its cache, elsewhere all."""
    parts: list[tuple[Tensor, Solution | None]] = [(images, None)]
    if warm_start is not None:
        known = _usable(warm_start)[images]
        parts = [(images[known], warm_start), (images[~known], None)]
    count = len(images)
    if program.linear.device.type == "cpu" and count:
        count = max(1, _CACHED // program.linear[0].numel())
    return [
        (group, None if earlier is None else earlier.select(group))
        for members, earlier in parts
        if len(members)
        for group in members.split(count)
    ]


def _in_units(answer: Solution, program: Program, unit: Tensor) -> Solution:
    """An answer to normalized programs as one to the programs themselves."""
    multipliers = answer.multipliers or _zero_multipliers(program)
    return replace(
        answer,
        objective=answer.objective * unit.double(),
        bound=answer.bound * unit.double(),
        multipliers=multipliers.map(lambda values: values * unit.reshape(-1, 1, 1, 1)),
    )


def _zero_multipliers(program: Program) -> Multipliers:
    ball, zeros = program.ball, program.linear.new_zeros
    return Multipliers(
        None if ball.floor is None else FloorMultipliers(zeros(ball.map_shape), zeros(ball.map_shape)),
        None if ball.mean is None else zeros(ball.batch, 1, 1, 1),
    )
