"""What both attacks keep of each image: the best candidate, its status, and the passes it took."""

import torch
from torch import Tensor

from percep.attacks import AttackStatus
from percep.attacks.tracker import Tracker

ALL = torch.arange(3)
LOGITS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 0.0]])


def tracker() -> Tracker:
    return Tracker(torch.zeros(4, 1, 2, 2), torch.tensor([True, True, True, False]))


def candidates(value: float) -> Tensor:
    return torch.full((3, 1, 2, 2), value)


def test_the_first_candidates_are_the_references() -> None:
    kept = tracker()
    assert kept.active.tolist() == [0, 1, 2] and kept.unseen(ALL).all()
    costs, met = torch.tensor([torch.inf, 0.0, torch.inf]), torch.tensor([False, True, False])
    better = kept.record_outcomes(ALL, candidates(0.0), costs, LOGITS, met)
    assert better.tolist() == [False, True, False]
    assert kept.labels_before.tolist() == kept.labels_after.tolist() == [0, 1, -1, -1]
    assert kept.status == [
        AttackStatus.NOT_FOUND,
        AttackStatus.ALREADY_ADVERSARIAL,
        AttackStatus.NOT_FINITE,
        AttackStatus.NOT_FINITE,
    ]


def test_only_cheaper_candidates_replace_the_best() -> None:
    kept = tracker()
    kept.count_passes(ALL, torch.ones(3, dtype=torch.bool), separately=False)
    met = torch.ones(3, dtype=torch.bool)
    for value, costs in ((0.5, [3.0, 2.0, 1.0]), (0.7, [1.0, 2.0, torch.inf])):
        kept.record_outcomes(ALL, candidates(value), torch.tensor(costs), torch.eye(3, 2), met)
    assert kept.best.flatten(1).amax(1).tolist() == torch.tensor([0.7, 0.5, 0.5, 0.0]).tolist()
    assert kept.best_cost.tolist() == [1.0, 2.0, 1.0, torch.inf]
    assert kept.status[:3] == [AttackStatus.ADVERSARIAL] * 3
    assert kept.labels_before.tolist() == [-1] * 4, "no reference was looked at"


def test_passes_are_counted_once() -> None:
    kept, differentiated = tracker(), torch.tensor([True, False, True])
    kept.count_passes(ALL, differentiated, separately=False)
    assert kept.gradient_calls.tolist() == [1, 0, 1, 0] and kept.forward_calls.tolist() == [0, 1, 0, 0]
    kept.count_passes(ALL, differentiated, separately=True)
    assert kept.gradient_calls.tolist() == [2, 0, 2, 0] and kept.forward_calls.tolist() == [1, 2, 1, 0]


def test_an_image_says_why_its_first_gradient_is_not_followed() -> None:
    kept, no = tracker(), torch.zeros(3, dtype=torch.bool)
    kept.count_passes(ALL, ~no, separately=False)
    kept.record_gradients(ALL, torch.tensor([True, False, False]), torch.tensor([True, True, False]))
    assert kept.status[:3] == [AttackStatus.NOT_FOUND, AttackStatus.NO_GRADIENT, AttackStatus.NOT_FINITE]
    kept.count_passes(ALL, ~no, separately=False)
    kept.record_gradients(ALL, torch.tensor([False, True, False]), ~no)
    assert kept.status[:3] == [AttackStatus.NOT_FOUND, AttackStatus.NOT_FOUND, AttackStatus.NOT_FINITE]
