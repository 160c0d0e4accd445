"""The cost of a weight once the others have made up for it."""

import pytest
import torch

import steppe
from steppe import SteppeError
from steppe.score.obs import Obs


def test_its_square_is_what_the_error_grows_by():
    """w^2 / U_jj^2 is the least of d'Hd over all d with d_j = -w and nothing left of j."""
    inputs = torch.randn(60, 8, dtype=torch.float64)
    hessian = inputs.T @ inputs
    weight = torch.randn(1, 8, dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    scores = Obs().score(weight, {"obs_scale": upper.diagonal()[None]}, "w")
    for j in range(8):
        change = torch.zeros(8, dtype=torch.float64)
        change[j] = -weight[0, j]
        if j < 7:
            right = -hessian[j + 1 :, j] * change[j]
            change[j + 1 :] = torch.linalg.solve(hessian[j + 1 :, j + 1 :], right)
        torch.testing.assert_close(scores[0, j] ** 2, change @ hessian @ change)


def test_it_needs_a_coupling_that_knows_the_hessian():
    magnitude = steppe.methods.make("magnitude", sparsity=0.5)
    with pytest.raises(SteppeError, match="obs_update"):
        magnitude.replace(score="obs")
