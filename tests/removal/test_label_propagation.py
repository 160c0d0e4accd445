"""Operations that are easy to get wrong: each is followed rightly, or its channels stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steppe.removal.dependency_graph import trace_channels
from steppe.removal.propagation.state import RULES
from steppe.removal.remove import remove


class Net(nn.Module):
    """conv a -> something -> conv b -> mean -> head; ``units``: how many channels of a may go."""

    channels, reads, channels_of_a_unit = 6, 6, 1

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
    """Equal halves: a unit is a channel of each."""

    units, reads, channels_of_a_unit = 3, 3, 2

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


class Halved(Net):
    units, reads, channels_of_a_unit = 3, 3, 2

    def between(self, x):
        return F.glu(x, 1)


class Stacked(Net):
    units = 6

    def more(self):
        self.other = nn.Conv2d(3, 6, 1)

    def forward(self, x):
        both = torch.stack([self.a(x), self.other(x)])
        return self.head(torch.relu(self.b(both.sum(0))).mean((2, 3)))


class LargestInSpace(Net):
    units = 6

    def between(self, x):
        return x.max(3, keepdim=True)[0] - x.min(3, keepdim=True).values + x.median(3, True)[0]


class LargestChannel(Net):
    units, reads = 0, 1

    def between(self, x):
        return x.max(1, keepdim=True)[0]


class Circular(Net):
    units = 6

    def between(self, x):
        return F.pad(x, (1, 1, 1, 1), mode="circular")


class Pixels(Net):
    """Four channels make one."""

    channels, units, reads, channels_of_a_unit = 8, 2, 2, 4

    def between(self, x):
        return F.pixel_shuffle(x, 2)


class PixelsBack(Net):
    units, reads = 6, 24

    def between(self, x):
        return F.pixel_unshuffle(x, 2)


class ShuffledInGroups(Net):
    units, channels_of_a_unit = 3, 2

    def between(self, x):
        return F.channel_shuffle(x, 2)


class Patches(Net):
    units, reads = 6, 24

    def between(self, x):
        return F.unfold(x, 2, stride=2).view(len(x), -1, 2, 2)


class Ordered(Net):
    """Sorting, reversing and a Fourier transform along space."""

    units = 6

    def between(self, x):
        x = x.sort(2)[0].flip(3).roll((1, 1), (2, 3)).cumsum(2)
        return torch.fft.irfft2(torch.fft.rfft2(x))


class OrderedChannels(Net):
    units = 0

    def between(self, x):
        return x.sort(1)[0] + x.flip(1)


class Picked(Net):
    """Positions in space are picked; samples too."""

    units = 6

    def between(self, x):
        return x[:, :, torch.tensor([2, 0])]


class Permuted(Net):
    """As many channels, in another order."""

    units = 0

    def between(self, x):
        return x.index_select(1, torch.arange(5, -1, -1)) + x[:, torch.arange(5, -1, -1)]


class Sampled(Net):
    units = 6

    def between(self, x):
        return F.grid_sample(x, torch.zeros(len(x), 4, 4, 2), align_corners=False)


class DepthwiseTransposed(Net):
    units = 6

    def more(self):
        self.up = nn.ConvTranspose2d(6, 6, 2, 2, groups=6)

    def between(self, x):
        return self.up(x)


class TransposedInGroups(Net):
    units, reads = 0, 8

    def more(self):
        self.up = nn.ConvTranspose2d(6, 8, 2, 2, groups=2)

    def between(self, x):
        return self.up(x)


class AlongSpace(Net):
    """Channels that lie where a convolution has its space."""

    units, reads = 0, 16

    def more(self):
        self.along = nn.Conv1d(16, 16, 3, padding=1)

    def between(self, x):
        return self.along(x.flatten(2).mT).unsqueeze(3)


class Recurrent(Net):
    """Two layers in both directions; its own hidden units are a group of their own."""

    units, reads = 6, 10

    def more(self):
        self.rnn = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)

    def between(self, x):
        return self.rnn(x.flatten(2).mT)[0].mT.reshape(len(x), -1, 4, 4)


class Gated(Net):
    units, reads = 6, 5

    def more(self):
        self.rnn = nn.GRU(6, 5, batch_first=True)

    def between(self, x):
        return self.rnn(x.flatten(2).mT)[1][0][:, :, None, None]


class WithAState(Net):
    """Its first state has the size that the code says; its inputs may go."""

    units, reads = 6, 5

    def more(self):
        self.rnn = nn.RNN(6, 5, batch_first=True)

    def between(self, x):
        return self.rnn(x.flatten(2).mT, torch.zeros(1, len(x), 5))[1][0][:, :, None, None]


class DropsInTraining(Net):
    units = 6

    def between(self, x):
        x = F.rrelu(F.alpha_dropout(F.dropout2d(x, 0.3, self.training), 0.3, self.training))
        if self.training:
            x = x + 0.1 * torch.randn(x.shape)
        return F.dropout(x, 0.3, self.training)


class Written(Net):
    """Into memory that is as large as its shape says."""

    units = 6

    def between(self, x):
        canvas = x.new_zeros(*x.shape[:2], 6, 6)
        canvas[:, :, 1:5, 1:5] = x
        return canvas


class Gathered(Net):
    """Neighbours in space are added, by an index as wide as the channels are."""

    units = 6

    def between(self, x):
        index = torch.tensor([1, 2, 3, 0]).view(1, 1, 4, 1).expand(x.shape)
        x = x.gather(2, index) + torch.zeros(x.shape).scatter_add_(2, index, x)
        return x.index_add(3, torch.tensor([0, 1]), x[..., 2:])


class GatheredChannels(Net):
    units = 0

    def between(self, x):
        return x.gather(1, torch.arange(5, -1, -1).view(1, 6, 1, 1).expand(x.shape))


class PackedSequences(Net):
    units, reads = 6, 5

    def more(self):
        self.rnn = nn.GRU(6, 5, batch_first=True)

    def between(self, x):
        long = torch.tensor([16, 9])[: len(x)]
        packed = nn.utils.rnn.pack_padded_sequence(x.flatten(2).mT, long, batch_first=True)
        padded = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]
        return padded.mT[..., None]


class FromEncoderToDecoder(Net):
    """The units of both go together, as the state of one is given to the other."""

    units, reads = 6, 5

    def more(self):
        self.one, self.other = (nn.LSTM(6, 5, batch_first=True) for _ in range(2))

    def between(self, x):
        x = x.flatten(2).mT
        return self.other(x, self.one(x)[1])[0].mT[..., None]


class OwnFunction(torch.autograd.Function):
    """A function with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Custom(Net):
    units = 6

    def between(self, x):
        return OwnFunction.apply(x)


class Unknown(Net):
    """No rule for it."""

    units = 0

    def between(self, x):
        return x.renorm(2, 1, 1.0)


class InThePlaceOfScripts(Net):
    units = 0

    def more(self):
        self.script = torch.jit.script(nn.Conv2d(6, 6, 1))

    def between(self, x):
        return self.script(x)


class Derived(Net):
    """A weight that is computed from others."""

    units = 0

    def more(self):
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 1))

    def between(self, x):
        return self.normed(x)


@pytest.mark.parametrize("kind", Net.__subclasses__(), ids=lambda kind: kind.__name__)
def test_followed_rightly_or_kept(networks, kind):
    torch.manual_seed(0)
    model, example = kind().eval(), torch.randn(2, 3, 4, 4)
    seen = trace_channels(model, example)
    groups = {g.name: g for g in seen.groups}
    assert "b.weight" in groups
    assert ("a.weight" in groups) == (kind.units > 0), seen.left_out
    assert not any("unknown form" in reason for reason in seen.left_out.values())
    assert ("a.weight" in seen.left_out) == (kind.units * kind.channels_of_a_unit < kind.channels)
    if kind.units:
        assert groups["a.weight"].units == kind.units
    kept = networks.draw(seen.groups)
    networks.zero(model, seen.groups, kept)
    done = remove(model, example, groups=seen.groups)
    assert len(done.report["removed"]) == len(groups)
    assert done.report["error"] <= 1e-5


def test_a_rule_that_stumbles_keeps_the_channels_and_blames_no_model(monkeypatch):
    def stumbles(state, args, out):
        raise ValueError("operands of other shapes")

    monkeypatch.setitem(RULES, "sort", stumbles)
    seen = trace_channels(Ordered(), torch.randn(2, 3, 4, 4))
    assert [g.name for g in seen.groups] == ["b.weight"]
    assert "sort in an unknown form (ValueError" in seen.left_out["a.weight"]
