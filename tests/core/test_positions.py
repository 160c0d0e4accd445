"""Some rows at a time: the same sum and the same gradient."""

import pytest
import torch

from steppe.core import positions
from steppe.core.positions import sum_over


def test_in_parts_it_is_the_same_sum_with_the_same_gradient(monkeypatch: pytest.MonkeyPatch):
    x = torch.randn(13, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(13, dtype=torch.float64)
    largest = []

    def rows(part, w):
        largest.append(len(part))
        return part.logsumexp(-1) * w

    whole = sum_over(rows, x, weights)
    (expected,) = torch.autograd.grad(whole, x)
    assert largest == [13]
    monkeypatch.setitem(positions.AT_ONCE, "cpu", 21)
    largest.clear()
    parts = sum_over(rows, x, weights)
    (gradient,) = torch.autograd.grad(parts, x)
    assert max(largest) == 3, "as many rows as fit, and computed anew in the backward pass"
    assert len(largest) == 10
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradient, expected)


def test_one_row_that_is_too_large_is_still_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(positions.AT_ONCE, "cpu", 2)
    assert float(sum_over(lambda x: x.sum(-1), torch.ones(3, 5))) == 15.0
