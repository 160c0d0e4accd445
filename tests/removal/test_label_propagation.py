"""Operations that are easy to get wrong: each is followed rightly, or its channels stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steppe.removal.dependency_graph import trace_channels
from steppe.removal.remove import remove


class Net(nn.Module):
    """conv a -> something -> conv b -> mean -> head; ``units``: how many channels of a may go."""

    channels, reads = 6, 6

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, self.channels, 1)
        self.b = nn.Conv2d(self.reads, 4, 1)
        self.head = nn.Linear(4, 2)
        self.more()

    def more(self):
        pass

    def between(self, x):
        return x

    def forward(self, x):
        return self.head(torch.relu(self.b(self.between(self.a(x)))).mean((2, 3)))


class Plain(Net):
    units = 6


class SqueezeExcite(Net):
    units = 6

    def more(self):
        self.down, self.up = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)

    def between(self, x):
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class LayerScale(Net):
    units = 6

    def more(self):
        self.gamma = nn.Parameter(torch.randn(6, 1, 1))

    def between(self, x):
        return self.gamma * x


class ChannelsLast(Net):
    units = 6

    def more(self):
        self.linear = nn.Linear(6, 6)

    def between(self, x):
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ReusedConv(Net):
    units = 6

    def more(self):
        self.again = nn.Conv2d(6, 6, 1)

    def between(self, x):
        return self.again(torch.relu(self.again(x)))


class InstanceNorm(Net):
    units = 6

    def more(self):
        self.norm = nn.InstanceNorm2d(6, affine=True)

    def between(self, x):
        return self.norm(x)


class ResizedAndPadded(Net):
    units = 6

    def between(self, x):
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return F.max_pool2d(F.pad(F.pad(x, (1, 1, 1, 1), mode="reflect"), (0, 1, 0, 1)), 2)


class ZerosLike(Net):
    units = 6

    def between(self, x):
        return torch.cat([x, torch.zeros_like(x)], 1)

    reads = 12


class ZerosBeside(Net):
    """Zeros of a fixed number beside channels: the channels may go, the zeros stay."""

    units, reads = 6, 8

    def between(self, x):
        return F.pad(x, (0, 0, 0, 0, 1, 1))


class FixedShortcut(Net):
    """The zeros around a shortcut are as many as the code says."""

    units = 0

    def between(self, x):
        return x + F.pad(x[:, 1:5], (0, 0, 0, 0, 1, 1))


class Padded(Net):
    """Four channels lie on the inner four of six; the outer two must stay."""

    units = 4

    def more(self):
        self.side = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.a(x) + F.pad(self.side(x), (0, 0, 0, 0, 1, 1))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


class Sliced(Net):
    units, reads = 0, 4

    def between(self, x):
        return x[:, :4]


class Chunked(Net):
    units, reads = 0, 3

    def between(self, x):
        one, other = x.chunk(2, 1)
        return one * other


class Shuffled(Net):
    units = 0

    def between(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Summed(Net):
    """The sum over channels of what is not zero at zero."""

    units = 0

    def between(self, x):
        return x - torch.sigmoid(x).mean(1, keepdim=True)


class Softmaxed(Net):
    units = 0

    def between(self, x):
        return x.softmax(1)


class SelfSimilar(Net):
    """Two activations multiplied over channels."""

    units, reads = 0, 16

    def between(self, x):
        flat = x.flatten(2)
        return (flat.transpose(1, 2) @ flat).view(len(x), 16, 4, 4)


class Constant(Net):
    units = 0

    def between(self, x):
        return x + torch.arange(6.0).view(6, 1, 1)


class Mask(Net):
    units = 6

    def more(self):
        self.register_buffer("scale", torch.rand(1, 6, 1, 1))

    def between(self, x):
        return x * self.scale


@pytest.mark.parametrize("kind", Net.__subclasses__(), ids=lambda kind: kind.__name__)
def test_followed_rightly_or_kept(networks, kind):
    torch.manual_seed(0)
    model, example = kind().eval(), torch.randn(2, 3, 4, 4)
    seen = trace_channels(model, example)
    groups = {g.name: g for g in seen.groups}
    assert "b.weight" in groups
    assert ("a.weight" in groups) == (kind.units > 0), seen.left_out
    assert ("a.weight" in seen.left_out) == (kind.units < 6)
    if kind.units:
        assert groups["a.weight"].units == kind.units
    kept = networks.draw(seen.groups)
    networks.zero(model, seen.groups, kept)
    done = remove(model, example, groups=seen.groups)
    assert len(done.report["removed"]) == len(groups)
    assert done.report["error"] <= 1e-5
