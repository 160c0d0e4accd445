"""Coupled channels go in all their tensors at once, with every coupling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import steppe
from steppe import Method, SteppeError
from steppe.core.group import Group, Slice


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


def groups() -> list[Group]:
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
    return [Group("stem.weight", trunk), Group("conv1.weight", inner, multiple=2)]


def train(method: Method, steps: int = 6) -> tuple[Net, steppe.Sparsifier]:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    sparsifier = steppe.sparsify(net, optimizer, method, total_steps=steps, groups=groups())
    x, y = torch.randn(16, 3, 8, 8), torch.randint(4, (16,))
    for _ in range(steps):
        sparsifier.step(lambda: nn.functional.cross_entropy(net(x), y))
    return net, sparsifier


@pytest.mark.parametrize("coupling", ["hard_mask", "project", "admm"])
@pytest.mark.parametrize("score", ["magnitude", "l1", "taylor", "fisher"])
def test_a_unit_is_gone_everywhere_or_nowhere(coupling: str, score: str) -> None:
    method = Method(
        score=score,
        structure="channel",
        coupling=coupling,
        schedule={"name": "linear", "end": 0.9},
        budget={"name": "pooled", "sparsity": 0.5},
    )
    net, sparsifier = train(method)
    finished = sparsifier.finish()
    assert finished.units == 14
    named = dict(net.named_parameters())
    gone = 0
    for group in groups():
        held = torch.cat(
            [s.rows(named[s.name].detach()) for s in group.slices if s.name in named], 1
        )
        alive = held.any(1)
        gone += int((~alive).sum())
        assert int(alive.sum()) % group.multiple == 0
    assert gone == finished.units_zeroed == 7
    # the masks say the same, and a channel that is gone gives nothing to the next layer
    with torch.no_grad():
        net.eval()
        inner = net.norm1(net.conv1(torch.randn(2, 6, 8, 8)))
        assert not inner[:, ~finished.masks["conv1.bias"]].any()


def test_masks_never_let_a_channel_return() -> None:
    method = Method(
        structure="channel",
        schedule={"name": "linear", "end": 0.9},
        budget={"name": "pooled", "sparsity": 0.6},
    )
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(net, optimizer, method, total_steps=10, groups=groups())
    x, y = torch.randn(16, 3, 8, 8), torch.randint(4, (16,))
    before = None
    for _ in range(10):
        sparsifier.step(lambda: nn.functional.cross_entropy(net(x), y))
        masks = sparsifier.state["mask"]
        if before is not None:
            assert not any(bool((masks[n] & ~before[n]).any()) for n in masks)
        before = {n: m.clone() for n, m in masks.items()}


def test_a_state_goes_on_bit_for_bit() -> None:
    method = steppe.Method(structure="channel", budget={"name": "pooled", "sparsity": 0.5})
    one, _ = train(method, 6)
    again, _ = train(method, 6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_what_cannot_be_is_refused_before_the_first_step() -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    plain = Method(budget={"name": "pooled", "sparsity": 0.5})
    with pytest.raises(SteppeError, match="structure channel"):
        steppe.sparsify(net, optimizer, plain, total_steps=1, groups=groups())
    much = Method(structure="channel", budget={"name": "pooled", "sparsity": 0.95})
    with pytest.raises(SteppeError, match=r"channels must leave room.*fewest"):
        steppe.sparsify(net, optimizer, much, total_steps=1, groups=groups())
    other = Method(structure="channel", budget={"name": "pooled", "sparsity": 0.5})
    with pytest.raises(SteppeError, match="belong to one model"):
        steppe.sparsify(nn.Linear(2, 2), optimizer, other, total_steps=1, groups=groups())


def test_phases_change_the_perturbation_in_the_run() -> None:
    phases = ((0.5, {"name": "adasap", "rho_max": 0.1}), (1.0, "none"))
    method = Method(
        structure="channel",
        budget={"name": "pooled", "sparsity": 0.5},
        perturb={"name": "phased", "phases": phases},
    )
    assert Method.from_dict(method.to_dict()) == method
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    sparsifier = steppe.sparsify(net, optimizer, method, total_steps=4, groups=groups())
    x, y, calls = torch.randn(4, 3, 8, 8), torch.randint(4, (4,)), []

    def closure() -> torch.Tensor:
        calls.append(1)
        return nn.functional.cross_entropy(net(x), y)

    counts = []
    for _ in range(4):
        before = len(calls)
        sparsifier.step(closure)
        counts.append(len(calls) - before)
    assert counts == [2, 2, 1, 1]
