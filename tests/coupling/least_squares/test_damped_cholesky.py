"""What the layer solvers share."""

import itertools

import pytest
import torch

from steppe.core.layer_problem import LayerProblem
from steppe.coupling.least_squares.damped_cholesky import definite_inverse, refined, shares


def definite(n):
    inputs = torch.randn(3 * n, n)
    return inputs.T @ inputs / n + 0.1 * torch.eye(n)


@pytest.mark.parametrize("n", [1, 2, 127, 129, 300, 515])
def test_inverse(n):
    matrix = definite(n)
    before = matrix.clone()
    out = torch.empty_like(matrix)
    inverse = definite_inverse(matrix, out)
    assert inverse is out
    assert torch.equal(matrix, before)
    exact = torch.linalg.inv(matrix.double())
    assert float((inverse - exact).norm() / exact.norm()) < 1e-5


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_inverse_of_an_ill_conditioned_matrix(condition):
    """A few large eigenvalues, as of inputs that go together: products alone were off by half."""
    n = 512
    basis, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    values = torch.full((n,), 1.0 / condition, dtype=torch.float64)
    values[:40] = torch.logspace(-1, 0, 40, dtype=torch.float64)
    exact = (basis / values) @ basis.T
    inverse = definite_inverse(((basis * values) @ basis.T).float()).double()
    assert float((inverse - exact).norm() / exact.norm()) < max(1e-3, 1e-7 * condition)


@pytest.mark.parametrize("n", [100, 300])
def test_inverse_of_a_matrix_that_rounding_left_singular(n):
    """Nothing is raised where no layer can be named."""
    assert definite_inverse(torch.ones(n, n)).isnan().all()


def test_refinement_stays_inside_the_mask_and_rows_do_not_mix():
    hessian, target = definite(20), torch.randn(6, 20)
    mask = torch.rand(6, 20) < 0.5
    mask[0], mask[1] = False, True
    refined_weight = refined(hessian, target, target * mask, mask, 25)
    assert not refined_weight[~mask].any()
    torch.testing.assert_close(refined_weight[1], target[1])
    alone = refined(hessian, target[2:3], (target * mask)[2:3], mask[2:3], 25)
    torch.testing.assert_close(refined_weight[2:3], alone, rtol=1e-4, atol=1e-5)


def test_shares_are_exact_and_take_the_dead_first():
    columns, rows = 50, 7
    dead = torch.zeros(columns, dtype=torch.bool)
    dead[[3, 4, 20, 49]] = True
    blocks = [slice(i, min(i + 16, columns)) for i in range(0, columns, 16)]
    for prune in (0, 1, 20, 28, 29, 100, rows * columns):
        problem = LayerProblem("w", torch.zeros(rows, columns), {}, prune, None, None)
        prune_counts = shares(problem, dead, blocks)
        assert sum(prune_counts) == prune
        gone = [rows * int(dead[b].sum()) for b in blocks]
        sizes = [rows * (b.stop - b.start) for b in blocks]
        if prune >= 28:
            assert all(f >= g for f, g in zip(prune_counts, gone, strict=True))
            rest = [
                (f - g) / (s - g)
                for f, g, s in zip(prune_counts, gone, sizes, strict=True)
                if s > g
            ]
            for a, b in itertools.combinations(rest[:3], 2):
                assert abs(a - b) < 0.02
        else:
            assert all(f <= g for f, g in zip(prune_counts, gone, strict=True))
