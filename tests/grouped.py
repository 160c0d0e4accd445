"""A small network with coupled channels, written out by hand, for the parts that need some."""

from __future__ import annotations

import torch
from torch import nn

import steppe
from steppe.core.group import Group, Slice
from steppe.core.protocols import Tensors
from steppe.core.statistic import STATISTICS
from steppe.engine.step.channel_selector import ChannelSelector, coupled


class Net(nn.Module):
    """Two convolutions with batch norm, a residual, a head: the stem and conv2 share channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.conv1 = nn.Conv2d(6, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.conv2(torch.relu(self.norm1(self.conv1(x))))
        return self.head(torch.relu(x).mean((2, 3)))


def groups(multiple: int = 2) -> list[Group]:
    """The residual trunk, 6 channels, and what lies within the branch, 8."""

    def slices(n: int, *named: tuple[str, int, str]) -> tuple[Slice, ...]:
        return tuple(Slice(k, dim, torch.arange(n).view(n, 1), role) for k, dim, role in named)

    trunk = slices(
        6,
        ("stem.weight", 0, "output"),
        ("norm.weight", 0, "norm"),
        ("norm.bias", 0, "norm"),
        ("conv1.weight", 1, "input"),
        ("conv2.weight", 0, "output"),
        ("conv2.bias", 0, "bias"),
        ("head.weight", 1, "input"),
    )
    inner = slices(
        8,
        ("conv1.weight", 0, "output"),
        ("conv1.bias", 0, "bias"),
        ("norm1.weight", 0, "norm"),
        ("norm1.bias", 0, "norm"),
        ("norm1.running_mean", 0, "buffer"),
        ("conv2.weight", 1, "input"),
    )
    return [Group("stem.weight", trunk), Group("conv1.weight", inner, multiple=multiple)]


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and classes, always the same."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 4


def loss(net: nn.Module) -> torch.Tensor:
    """Of the data."""
    x, y = data()
    return nn.functional.cross_entropy(net(x), y)


def selector(net: Net, method: steppe.Method, **options: object) -> ChannelSelector:
    """Of the network's groups, its statistics empty."""
    layers, _ = coupled(net, groups())
    score, _ = method.score.for_network(net, method.structure.whole_outputs, groups())
    method = method.replace(score=score)
    statistics = {n: STATISTICS[n]() for n in score.needs}
    modules = dict(net.named_modules())
    for statistic in statistics.values():
        statistic.prepare({x.name: (x, modules[x.name.rpartition(".")[0]]) for x in layers})
        statistic.couple(groups())
    return ChannelSelector(method, layers, statistics, groups(), **options)


def observe(net: Net, select: ChannelSelector, batches: list[slice]) -> Tensors:
    """Show the selector's statistics the gradient of each batch; returns the weights."""
    _, weights = coupled(net, groups())
    x, y = data()
    for rows in batches:
        net.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        grads = {n: w.grad for n, w in weights.items()}
        for statistic in select.statistics.values():
            statistic.decay = 0.0  # the last batch alone
            statistic.observe({n: w.detach() for n, w in weights.items()}, grads)
    return {n: w.detach() for n, w in weights.items()}


def train(method: steppe.Method, steps: int = 6, lr: float = 0.1, **options: object):  # type: ignore[no-untyped-def]
    """(network, sparsifier) after so many steps."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    sparsifier = steppe.sparsify(net, optimizer, method, steps, groups=groups(), **options)
    for _ in range(steps):
        sparsifier.step(lambda: loss(net))
    return net, sparsifier
