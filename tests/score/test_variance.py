"""Channels rank by how much they vary where they are read."""

import pytest
import torch
from torch import nn

import steppe
from steppe import Method, SteppeError
from steppe.core.group import Group, Slice
from steppe.core.layer import Layer
from steppe.score.variance import InputMoments, Variance

METHOD = Method(score="variance", structure="channel", budget={"name": "pooled", "sparsity": 0.5})


class Conv1D(nn.Module):
    """As transformers' own: known by its name, the weight stored inputs first."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))

    def forward(self, x):
        return x @ self.weight


READERS = {
    "linear": (nn.Linear(6, 4), (5, 7, 6), 1),
    "single vectors": (nn.Linear(6, 4), (6,), 1),
    "inputs first": (Conv1D(4, 6), (5, 7, 6), 0),
    "convolution": (nn.Conv2d(6, 4, 3), (5, 6, 9, 8), 1),
    "one dimension": (nn.Conv1d(6, 4, 3, stride=2), (5, 6, 9), 1),
}


def moments(module, batches):
    statistic = InputMoments()
    layer = Layer("weight", tuple(module.weight.shape))
    part = Slice("weight", int(module.weight.shape[0] != 6), torch.arange(6)[:, None], "input")
    statistic.prepare({"weight": (layer, module)})
    statistic.couple([Group("a", (part,))])
    for x in batches:
        statistic.active(True)
        module(x)
        statistic.active(False)
        module(x + 1e6)  # a pass that is not observed
        statistic.observe({}, {})
    return statistic, part


@pytest.mark.parametrize("name", READERS)
def test_variance_and_mean_of_each_input(name):
    module, shape, dim = READERS[name]
    x = torch.randn(shape, dtype=torch.float64).to(torch.float32) * 3 + 2
    statistic, part = moments(module, [x])
    assert part.dim == dim
    channels = x.movedim(1, -1) if module.weight.ndim > 2 else x
    flat = channels.reshape(-1, 6).double()
    mean, variance = statistic.value("weight")
    shape = torch.Size(torch.broadcast_shapes(mean.shape, module.weight.shape))
    assert shape == module.weight.shape
    torch.testing.assert_close(mean.flatten(), flat.mean(0), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        variance.flatten(), torch.var(flat, 0, correction=0), atol=1e-6, rtol=1e-6
    )
    saliency = Variance().score(module.weight, {"input_moments": statistic.value("weight")}, "w")
    units = Variance().reduce(Variance().members(Group("a", (part,)), {"weight": saliency}))
    torch.testing.assert_close(units, variance.flatten())


def test_batches_vary_among_each_other_too():
    """Each batch is constant: all the variance is between them."""
    statistic = moments(nn.Linear(6, 4), [torch.zeros(3, 6), torch.full((3, 6), 10.0)])[0]
    mean, variance = statistic.value("weight")
    share = 1 - statistic.decay
    torch.testing.assert_close(mean[0], torch.full((6,), 10 * share).double())
    torch.testing.assert_close(variance[0], torch.full((6,), 100 * share * (1 - share)).double())


def test_a_large_mean_costs_no_digits():
    x = 1e4 + torch.randn(4000, 6)
    statistic, _ = moments(nn.Linear(6, 4), [x])
    expected = torch.var(x.double(), 0, correction=0)
    torch.testing.assert_close(statistic.value("weight")[1][0], expected, atol=0, rtol=1e-3)


def test_grouped_convolutions_have_the_inputs_of_their_group():
    conv, x = nn.Conv2d(12, 4, 3, groups=2), torch.randn(5, 12, 6, 6)
    statistic, _ = moments(conv, [x])
    mean = statistic.value("weight")[0].expand(conv.weight.shape)
    own = x.double().mean((0, 2, 3))
    for row in range(4):
        expected = own[6 * (row // 2) :][:6]
        torch.testing.assert_close(mean[row, :, 1, 1], expected, atol=1e-6, rtol=1e-6)


def test_dimensions_of_a_head_add_up_and_so_do_readers():
    one = Slice("q", 1, torch.arange(6).view(2, 3), "input")
    two = Slice("k", 1, torch.arange(2).view(2, 1), "input")
    heads = Group("a", (one, two))
    variances = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    saliencies = {"q": variances.expand(7, 6), "k": torch.tensor([10.0, 20.0]).expand(3, 2)}
    score = Variance()
    assert score.reduce(score.members(heads, saliencies)).tolist() == [16.0, 35.0]


def test_what_varies_least_goes(grouped):
    net = grouped.Net()
    with torch.no_grad():
        net.norm1.weight.fill_(1.0)[2:5] = 0.01
        net.norm1.bias.fill_(1.0)[2:5] = 9.0  # large, but always the same
        net.conv1.weight.normal_()
    select = grouped.selector(net, METHOD)
    for statistic in select.statistics.values():
        statistic.active(True)
    weights = grouped.observe(net, select, [slice(None)])
    kept = select.alive(select(weights, 3 / 14))
    assert (~kept["conv1.weight"]).nonzero().flatten().tolist()[0] in (2, 3, 4)
    gone = select.units(METHOD.score, weights)["conv1.weight"]
    assert set(gone.argsort()[:3].tolist()) == {2, 3, 4}


def test_readers_that_cannot_be_seen_are_named_before_training():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.LSTM(4, 5)

    part = [
        Slice("first.weight", 0, torch.arange(4)[:, None], "output"),
        Slice("last.weight_ih_l0", 1, torch.arange(4)[:, None], "input"),
    ]
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match=r"last\.weight_ih_l0, which is neither"):
        steppe.sparsify(net, optimizer, METHOD, 1, groups=[Group("first.weight", tuple(part))])
