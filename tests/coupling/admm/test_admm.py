"""ADMM's sparse copy, and trainings too short for it; its steps are in tests/parity."""

from __future__ import annotations

import torch
from torch import nn

from steppe import methods, sparsify
from steppe.coupling.admm import Admm


def test_a_training_without_a_dual_update_is_named() -> None:
    assert Admm(penalty=0.1, interval=8).idle(8) == []
    (note,) = Admm(interval=8).idle(7)
    assert "every 8 steps" in note
    assert "7 steps never does" in note


def test_sparsify_says_so() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    short, long = (
        sparsify(model, optimizer, methods.safe(sparsity=0.5, interval=8), steps).notes
        for steps in (7, 8)
    )
    assert any("masks stay those of the weights at the start" in note for note in short)
    assert not any("admm" in note for note in long)
