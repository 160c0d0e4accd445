"""Zeros that other tools made: what is provably gone goes, and the rest is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from steppe.removal.channel_groups import channel_groups
from steppe.removal.remove import remove
from steppe.removal.zero_units import silenced_by_norms

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ).eval()


def test_a_norm_whose_scale_and_shift_are_zero_silences_a_channel():
    net = network()
    net[1].bias.data.fill_(0.5)
    net[1].weight.data[:4], net[1].bias.data[:3] = 0, 0
    done = remove(net, X)
    assert done.report["removed"] == {"0.weight": 3}  # the fourth has a shift
    assert done.model[1].num_features == 5
    torch.testing.assert_close(done.model(X), net(X))


def test_without_verification_such_channels_stay():
    net = network()
    net[1].weight.data[:4], net[1].bias.data[:4] = 0, 0
    with pytest.warns(UserWarning, match="nothing to remove"):
        assert remove(net, X, verify=False).report["removed"] == {}


class ReadInFront(nn.Module):
    """The channels are read behind their norm and in front of it."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.b, self.side = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.c, self.norm2, self.d = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x)
        x = torch.relu(self.b(torch.relu(self.norm(x))) + self.side(x))
        return self.d(torch.relu(self.norm2(self.c(x))))


def test_where_a_channel_is_read_in_front_of_its_norm_it_stays_and_the_others_go():
    torch.manual_seed(0)
    net = ReadInFront().eval()
    for norm in (net.norm, net.norm2):
        norm.weight.data[:2], norm.bias.data[:2] = 0, 0
    groups = {g.name: g for g in channel_groups(net, X)}
    tensors = dict(net.named_parameters())
    assert silenced_by_norms(net, groups["a.weight"], tensors).sum() == 2
    done = remove(net, X)
    assert done.report["removed"] == {"c.weight": 2}
    assert "whose norm is zero" in done.report["left_out"]["a.weight"]
    torch.testing.assert_close(done.model(X), net(X))


class Sloped(nn.Module):
    """A slope of zero is no scale of zero: what is positive passes."""

    def __init__(self):
        super().__init__()
        self.a, self.slope, self.b = nn.Conv2d(3, 4, 1), nn.PReLU(4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.b(self.slope(self.a(x)))


def test_a_slope_is_no_norm():
    net = Sloped()
    net.slope.weight.data[:2] = 0
    with pytest.warns(UserWarning, match="nothing to remove"):
        assert remove(net, X).report["removed"] == {}


def test_rows_that_are_zero_beside_a_bias_are_counted():
    net = network()
    prune.ln_structured(net[0], "weight", 0.5, 1, 0)
    prune.remove(net[0], "weight")
    with pytest.warns(UserWarning, match="4 have zero weights or scales, but a bias or shift"):
        assert remove(net, X).report["removed"] == {}


def test_columns_alone_are_enough():
    net = network()
    net[3].weight.data[:, :4] = 0
    assert remove(net, X).report["removed"] == {"0.weight": 4}


def test_zero_rows_in_front_of_a_fresh_norm_are_gone():
    """Nothing minus a mean of nothing stays nothing, whatever the scale."""
    net = network()
    net[0].weight.data[:4], net[0].bias.data[:4] = 0, 0
    done = remove(net, X)
    assert done.report["removed"] == {"0.weight": 4}
    torch.testing.assert_close(done.model(X), net(X))
    net[1].running_mean.data[0] = -1
    done = remove(net, X)
    assert done.report["removed"] == {"0.weight": 3}
    torch.testing.assert_close(done.model(X), net(X))


def test_a_scale_that_is_zero_beside_a_shift_is_counted():
    net = network()
    net[1].weight.data[:4], net[1].bias.data[:] = 0, 1
    with pytest.warns(UserWarning, match="4 have zero weights or scales"):
        assert remove(net, X).report["removed"] == {}
