"""Which vectors belong to the outputs of which layer."""

import torch
from torch import nn

from steppe.core.prunable import prunable
from steppe.engine.step.following_norms import FollowingNorms


class Mixed(nn.Module):
    """Norms in another order than they are used, one after an activation, one over the width."""

    def __init__(self):
        super().__init__()
        self.bn2, self.bn1 = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.late, self.width = nn.BatchNorm2d(4), nn.LayerNorm(4)
        self.slope, self.features = nn.PReLU(4), nn.LayerNorm(5)
        self.up, self.last = nn.ConvTranspose2d(4, 6, 1, groups=2), nn.Linear(4, 5)
        self.bn3 = nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.bn1(self.one(x))
        x = self.late(self.bn2(self.two(x)).relu())
        x = self.slope(self.width(self.one(x[:, :3])))
        y = self.bn3(self.up(x))
        return self.features(self.last(x.mean((2, 3)))).sum() + y.mean()


WANTED = {
    "bn1.weight": "one.weight",
    "bn1.bias": "one.weight",
    "bn2.weight": "two.weight",
    "bn2.bias": "two.weight",
    "bn3.weight": "up.weight",
    "bn3.bias": "up.weight",
    "features.weight": "last.weight",
    "features.bias": "last.weight",
}


def test_only_what_is_given_a_layers_own_outputs():
    net = Mixed()
    norms = FollowingNorms(net, prunable(net)[0])
    assert norms.owners is None
    with norms.watching():
        net(torch.randn(2, 3, 4, 4))
    assert norms.owners == WANTED
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with norms.watching():  # once is enough
        assert not any(m._forward_hooks for m in net.modules())


def test_a_compiled_network_shows_it_too():
    net = Mixed()
    norms = FollowingNorms(net, prunable(net)[0])
    compiled = torch.compile(net, backend="eager")
    x = torch.randn(2, 3, 4, 4)
    compiled(x)
    with norms.watching():
        compiled(x)
    assert norms.owners == WANTED
