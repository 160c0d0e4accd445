"""The rare options: one place, and the keywords of before."""

import pytest
import torch
from torch import nn

import steppe
from steppe import StepOptions, methods


def sparsify(**given):
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return steppe.sparsify(model, optimizer, methods.safe(sparsity=0.5), 2, **given)


def test_a_former_keyword_means_its_option():
    with pytest.warns(DeprecationWarning, match=r"StepOptions\(sync=") as seen:
        former = sparsify(sync="local")
    assert seen[0].filename == __file__
    assert former._passes._rank_local
    assert sparsify(options=StepOptions(sync="local"))._passes._rank_local
    assert not sparsify()._passes._rank_local


def test_what_was_never_a_keyword_is_a_type_error():
    with pytest.raises(TypeError, match="did you mean include"):
        sparsify(includes=["*"])


def test_known_statistics_are_not_gathered():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    known = {"activation_square": {"weight": torch.tensor([[4.0, 3.0, 2.0, 1.0]])}}
    method = methods.safe_plus(sparsity=0.5)
    s = steppe.sparsify(model, optimizer, method, 1, options=StepOptions(statistics=known))
    s.step(lambda: model(torch.ones(3, 4)).square().mean())
    assert torch.equal(
        s.state_dict()["statistics"]["activation_square"]["weight"],
        known["activation_square"]["weight"],
    )
