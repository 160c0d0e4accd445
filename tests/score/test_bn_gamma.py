"""Channels rank by the scales of their norms."""

import pytest
import torch

from steppe import Method, SteppeError
from steppe.core.group import Group

METHOD = Method(score="bn_gamma", structure="channel", budget={"name": "pooled", "sparsity": 0.5})


def test_the_smallest_scales_go(grouped):
    net = grouped.Net()
    with torch.no_grad():
        net.norm.weight.copy_(torch.tensor([0.9, -0.8, 0.01, 0.7, 0.02, 0.6]))
        net.norm1.weight.copy_(torch.tensor([0.5, 0.03, 0.04, -0.05, 0.4, 0.06, 0.07, 0.3]))
        net.norm.bias.fill_(9.0)  # shifts are not looked at
    masks = grouped.selector(net, METHOD)(dict(net.named_parameters()), 6 / 14)
    assert masks["norm.weight"].tolist() == [True, True, False, True, False, True]
    assert (~masks["norm1.weight"]).nonzero().flatten().tolist() == [1, 2, 3, 5]


def test_a_group_without_norm_is_named(grouped):
    inner = grouped.groups()[1]
    bare = Group("bare", tuple(s for s in inner.slices if s.role != "norm"))
    with pytest.raises(SteppeError, match=r"bn_gamma.*bare.*Way out"):
        METHOD.score.members(bare, {})
