"""What becomes of a module's output, as one pass shows."""

import torch
from torch import nn

from steppe.core.given_tensors import GivenTensors


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(4))

    def forward(self, x):
        one, two, three, four, five = (layer(x) for layer in self.layers)
        a, b, c = self.norms[0](one), self.norms[1](two), self.norms[2](three.relu())
        assert two.shape == four.shape  # to look at a tensor is not to compute with it
        return a + b * two + c + torch.cat([self.norms[3](four), five])[:3]


def test_takers_and_everything_else():
    net = Net()
    names = {layer: f"{i}" for i, layer in enumerate(net.layers)}
    tensors = GivenTensors(names, net.norms)
    with tensors.watching():
        net(torch.randn(3, 4))
    expected = [("0", net.norms[0]), ("1", net.norms[1]), ("3", net.norms[3])]
    assert list(tensors.pairs) == expected
    assert tensors.elsewhere == {"1", "2", "4"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_pass_that_fails_leaves_no_hooks():
    net = Net()
    tensors = GivenTensors({net.layers[0]: "0"}, net.norms)
    try:
        with tensors.watching():
            net(torch.randn(3, 5))
    except RuntimeError:
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
