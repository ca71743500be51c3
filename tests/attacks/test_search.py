"""The parts of the minimal attack's search: the order of its runs, and what a restart forgets."""

import math

import torch

from percep.attacks.search.schedule import ANY_CLASS, POWERS, Schedule
from percep.attacks.search.state import RunState


def test_runs_go_to_any_class_then_to_the_cheapest_and_then_refine() -> None:
    schedule = Schedule(scans=True)
    assert schedule.run.runner_up == ANY_CLASS and not schedule.run.scans and not schedule.run.refines
    schedule.likely = [4, 2, 7]
    scanned = [schedule.advance(1.0), schedule.advance(1.0, 2.0), schedule.advance(1.0, 0.5)]
    assert [(run.runner_up, run.scans, run.length) for run in scanned] == [(4, True, 1), (2, True, 1), (7, True, 1)]
    queue = [schedule.advance(1.0, 5.0)]  # class 7 costs too much
    while queue[-1].queued:
        queue.append(schedule.advance(1.0))
    patient, forgetful = POWERS
    expected = [(2, patient), (ANY_CLASS, forgetful), (4, patient), (2, forgetful), (4, forgetful)]
    assert [(run.runner_up, run.power) for run in queue] == expected
    assert schedule.advance(1.0).refines and schedule.advance(1.0).refines


def test_two_classes_are_not_scanned() -> None:
    schedule = Schedule(scans=True)
    schedule.likely = [1]
    assert schedule.advance(1.0).refines


def test_a_run_ends_at_its_length_or_where_it_is_hopeless() -> None:
    schedule = Schedule(scans=False)
    length = schedule.run.length
    assert not schedule.is_over(length - 1, math.inf, 1.0) and schedule.is_over(length, 1.0, 1.0)
    later = schedule.advance(1.0)
    assert not schedule.is_over(later.patience - 1, math.inf, 1.0) and schedule.is_over(later.patience, math.inf, 1.0)
    assert not schedule.is_over(later.patience, 1.0, 1.0)


def test_an_image_is_given_up_after_three_dead_ends_without_a_better_answer() -> None:
    schedule = Schedule(scans=False)
    assert [schedule.leave_dead_end(1.0) is None for _ in range(3)] == [False, False, True]
    schedule = Schedule(scans=False)
    assert all(schedule.leave_dead_end(1 / count) is not None for count in range(1, 9))


def test_dead_ends_count_neither_while_scanning_nor_while_runs_are_queued() -> None:
    schedule = Schedule(scans=True)
    schedule.likely = [1, 2, 3]
    runs = [schedule.leave_dead_end(math.inf) for _ in range(4)]
    assert [run.scans for run in runs if run is not None] == [True] * 3 + [False]
    assert runs[-1] is not None and (runs[-1].runner_up, runs[-1].power, runs[-1].queued) == (ANY_CLASS, POWERS[1], 0)


def test_a_restart_forgets_a_run_and_no_other_image_s() -> None:
    state = RunState.at_reference(torch.zeros(2, 1, 4, 4), 1.0)
    some = state.select(torch.tensor([0, 1]))
    for tensor in (some.delta, some.average, some.direction, some.shortfall, some.largest_margin, some.steps):
        tensor.fill_(3)
    some.runner_up.fill_(5)
    assert int(state.steps.sum()) == 0, "a selection is a copy"
    state.update(torch.tensor([0, 1]), some)
    state.zero(0)
    zeroed = (state.delta, state.average, state.direction, state.shortfall, state.largest_margin, state.steps)
    assert all(not tensor[0].any() and bool((tensor[1] == 3).all()) for tensor in zeroed)
    assert state.runner_up.tolist() == [5, 5] and state.power.tolist() == [1.0, 1.0]
