"""Random scores are fixed by name and seed."""

import torch

from steppe.score.random import Random


def test_fixed_by_name_and_seed():
    w = torch.randn(20, 20)
    drawn = Random().score(w, {}, "a")
    assert torch.equal(drawn, Random().score(-w, {}, "a"))
    assert not torch.equal(drawn, Random().score(w, {}, "b"))
    assert not torch.equal(drawn, Random(seed=1).score(w, {}, "a"))
    assert drawn.min() > 0
