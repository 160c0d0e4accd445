"""The bias takes what gone inputs gave in the mean."""

from __future__ import annotations

import pytest
import torch

from steppe import SteppeError, methods
from steppe.core.layer import Layer
from steppe.core.layer_problem import LayerProblem
from steppe.coupling.mean_shift import MeanShift
from steppe.engine.blockwise.solve import chooser


def test_no_other_shift_has_less_error() -> None:
    inputs = torch.randn(300, 10) @ torch.randn(10, 10) + torch.linspace(-3, 5, 10)
    weight = torch.randn(4, 10)
    layer = Layer("layer.weight", (4, 10), reads="heads", unit=2)
    method = methods.slim(sparsity=0.5, structure="heads", score="fluctuation")
    problem = LayerProblem(
        name="layer.weight",
        weight=weight,
        statistics={
            "activation_mean": inputs.mean(0, keepdim=True),
            "activation_variance": inputs.var(0, correction=0, keepdim=True),
        },
        prune=2,
        choose=chooser(method, layer),
        score=method.score,
        unit=2,
    )
    new, mask = MeanShift().solve(problem)
    assert torch.equal(new, weight * mask)
    # the two units with the least sum of w_ij^2 var(x_j) are gone
    size = (weight.square().sum(0) * inputs.var(0, correction=0)).view(5, 2).sum(1)
    gone = size.topk(2, largest=False).indices
    assert torch.equal((~mask[0].view(5, 2).any(1)).nonzero().flatten(), gone.sort().values)
    # the best shift of all is the mean of what is missing
    missing = inputs @ (weight - new).T
    assert problem.shift is not None
    torch.testing.assert_close(problem.shift, missing.mean(0), rtol=1e-4, atol=1e-4)


def test_only_what_is_cut_out_is_made_up_for() -> None:
    with pytest.raises(SteppeError, match="whole inputs that are cut out; got structure unstru"):
        methods.wanda(sparsity=0.5).replace(coupling="mean_shift")
