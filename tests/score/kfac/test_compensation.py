"""Compensation beside the dense quadratic problem."""

import pytest
import torch

from steppe.score.kfac.compensation import compensated


def problem(groups, rows, columns, kept=0.5):
    def definite(size):
        x = torch.randn(groups, 2 * size, size, dtype=torch.float64)
        return x.mT @ x / (2 * size)

    weight = torch.randn(groups, rows, columns, dtype=torch.float64)
    return weight, torch.rand(weight.shape) < kept, definite(rows), definite(columns)


def dense(weight, keep, rows, columns):
    """Eliminates what goes from the normal equations of the whole matrix G (x) A."""
    hessian = torch.kron(rows, columns)
    free, gone = keep.flatten().nonzero()[:, 0], (~keep).flatten().nonzero()[:, 0]
    change = torch.zeros(keep.numel(), dtype=torch.float64)
    change[gone] = -weight.flatten()[gone]
    right = -hessian[free][:, gone] @ change[gone]
    change[free] = torch.linalg.solve(hessian[free][:, free], right)
    return weight + change.reshape(weight.shape)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_the_best_of_all_changes(kept):
    weight, keep, rows, columns = problem(3, 4, 6, kept)
    compensated_weight = compensated(weight, keep, rows, columns)
    assert (compensated_weight[~keep] == 0).all()
    for k in range(3):
        best = dense(weight[k], keep[k], rows[k], columns[k])
        torch.testing.assert_close(compensated_weight[k], best, rtol=1e-7, atol=1e-9)


def test_one_weight_is_the_surgeons_own_update():
    weight, keep, rows, columns = problem(1, 3, 5, kept=2.0)
    keep[0, 1, 2] = False
    g, a = torch.linalg.inv(rows[0]), torch.linalg.inv(columns[0])
    update = -weight[0, 1, 2] / (g[1, 1] * a[2, 2]) * torch.outer(g[:, 1], a[2])
    compensated_weight = compensated(weight, keep, rows, columns)
    torch.testing.assert_close(
        compensated_weight[0], (weight[0] + update) * keep[0], rtol=1e-8, atol=1e-10
    )


def test_what_went_earlier_costs_nothing():
    weight, keep, rows, columns = problem(1, 4, 4)
    weight = weight * keep
    assert torch.equal(compensated(weight, keep, rows, columns), weight)


def test_groups_that_lose_nothing_stay_beside_others():
    weight, keep, rows, columns = problem(2, 3, 3)
    keep[0] = True
    compensated_weight = compensated(weight, keep, rows, columns)
    assert torch.equal(compensated_weight[0], weight[0])
    assert compensated_weight.isfinite().all()
    assert not torch.equal(compensated_weight[1], weight[1] * keep[1])


def test_a_layer_may_go_whole():
    weight, keep, rows, columns = problem(1, 3, 3)
    assert (compensated(weight, torch.zeros_like(keep), rows, columns) == 0).all()


@pytest.mark.parametrize("steps", [0, 1, 3, 20])
def test_no_step_makes_it_worse(steps):
    weight, keep, rows, columns = (x.float() if x.is_floating_point() else x
                                   for x in problem(1, 8, 12))  # fmt: skip

    def rise(made):
        away = made - weight
        return float((away * (rows @ away @ columns)).sum())

    compensated_weight = compensated(weight, keep, rows, columns, steps)
    more = compensated(weight, keep, rows, columns, steps + 1)
    assert rise(more) <= rise(compensated_weight) * (1 + 1e-5)
    assert rise(compensated_weight) <= rise(weight * keep) * (1 + 1e-6)
