"""The end of a run: a summary on one line, and a warning when the cut went deep."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import steppe


def run(penalty: float) -> steppe.Finished:
    torch.manual_seed(0)
    model = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = steppe.methods.admm(0.75, penalty=penalty, interval=16)
    sparsifier = steppe.sparsify(model, optimizer, method, total_steps=100)
    x, y = torch.randn(64, 16), torch.randint(0, 4, (64,))
    for _ in range(100):
        sparsifier.step(lambda: nn.functional.cross_entropy(model(x), y))
    return sparsifier.finish()


def test_a_weak_penalty_warns_at_the_callers_line_and_a_strong_one_does_not() -> None:
    with pytest.warns(UserWarning, match="penalty auto") as seen:
        done = run(1e-4)
    assert seen[0].filename == __file__
    assert "48 of 64 weights are zero, 75.00%" in repr(done)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(1.0).distance < 0.2


def test_a_run_that_ends_early_is_said():
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    s = steppe.sparsify(model, optimizer, steppe.methods.gmp(sparsity=0.9), total_steps=10)
    s.step(lambda: model(torch.ones(2, 8)).square().mean())
    with pytest.warns(UserWarning, match=r"finish\(\) after 1 of 10 steps"):
        s.finish()
