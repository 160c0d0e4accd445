"""row_mass beside the bisection on alpha that Wanda's authors released."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steppe import SteppeError, methods
from steppe.core.protocols import Budget


def gone_at(alpha: float, metric: Tensor) -> Tensor:
    """Each row loses its smallest entries while their sum is at most alpha times the row's."""
    ordered, index = metric.sort(dim=1, stable=True)
    below = ordered.cumsum(1) <= alpha * metric.sum(1, keepdim=True)
    return torch.zeros_like(below).scatter_(1, index, below)


def bisected(metric: Tensor, sparsity: float) -> Tensor:
    """As released: alpha between 0 and 0.8 until the sparsity or alpha is known to 0.001."""
    low, high, alpha = 0.0, 0.8, 0.4
    gone = gone_at(alpha, metric)
    while abs(float(gone.double().mean()) - sparsity) > 1e-3 and high - low >= 1e-3:
        if float(gone.double().mean()) > sparsity:
            high, alpha = alpha, (alpha + low) / 2
        else:
            low, alpha = alpha, (alpha + high) / 2
        gone = gone_at(alpha, metric)
    return gone


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.6, 0.8])
@pytest.mark.parametrize("shape", [(64, 96), (7, 500), (300, 11)], ids=str)
def test_as_the_released_bisection(sparsity: float, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    metric = torch.randn(shape, generator=generator, dtype=torch.float64).abs()
    metric *= torch.rand(shape[0], 1, generator=generator).double() * 10
    prune = round(sparsity * metric.numel())
    keep = Budget.make({"name": "row_mass", "sparsity": sparsity}).within(metric, prune)
    assert int((~keep).sum()) == prune, "exact, where theirs is near"
    theirs = bisected(metric, sparsity)
    # both are {share <= some alpha}: one lies in the other, and the counts tell them apart
    apart = int((~keep ^ theirs).sum())
    assert apart == abs(int(theirs.sum()) - prune)
    # 0.001 of sparsity, or what lies between two alphas that are 0.001 apart
    assert apart <= max(2e-3 * metric.numel(), 2)
    uneven = (~keep).sum(1)
    assert int(uneven.max()) > int(uneven.min()), "rows differ, other than under per_row"


def test_every_row_loses_its_smallest() -> None:
    metric = torch.rand(9, 40)
    keep = Budget.make({"name": "row_mass", "sparsity": 0.5}).within(metric, 180)
    for row, stays in zip(metric, keep, strict=True):
        assert row[~stays].max() < row[stays].min()


def test_rows_of_zeros_go_first_to_nothing() -> None:
    metric = torch.cat([torch.zeros(1, 8), torch.ones(3, 8)])
    keep = Budget.make({"name": "row_mass", "sparsity": 0.5}).within(metric, 8)
    assert not bool(keep[0].any())
    assert bool(keep[1:].all())


def test_whole_outputs_are_refused() -> None:
    with pytest.raises(SteppeError, match="row_mass chooses among the units of one output"):
        methods.gmp(sparsity=0.5, budget="row_mass", structure="channel")
