"""A trial removal finds what tracing cannot see, before any training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from steppe.core.group import Group, Slice
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.dependency_graph import traced_groups
from steppe.removal.trial import largest_passing, prove_groups, some_units


class Net(nn.Module):
    """conv a -> something -> conv b -> conv c -> mean: a has 8 channels, b 6."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
        self.bias = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x):
        return self.c(torch.relu(self.b(self.between(self.a(x))))).mean((2, 3))


class LiteralView(Net):
    def between(self, x):
        return x.view(-1, 8, 16).view(-1, 8, 4, 4)


class LiteralParts(Net):
    def between(self, x):
        one, other = x.split(4, 1)
        return torch.cat([other, one], 1)


class LiteralNoise(Net):
    def between(self, x):
        return x + torch.randn(1, 8, 1, 1)


class OutsideOfTorch(Net):
    """What numpy does is not seen; here it reads all channels at once."""

    def between(self, x):
        return x + float(x.detach().numpy().mean())


class HiddenCount(Net):
    """The number of channels is a value, not a size."""

    def between(self, x):
        return x / x.numel() * len(x)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (LiteralView, "invalid for input"),
        (LiteralParts, "gives outputs that differ"),
        (LiteralNoise, "must match the size"),
        (OutsideOfTorch, "gives outputs that differ"),
        (HiddenCount, "gives outputs that differ"),
    ],
)
def test_the_group_at_fault_stays_and_is_named(kind, why):
    torch.manual_seed(0)
    model, example = kind(), torch.randn(2, 3, 4, 4)
    before = copy.deepcopy(model.state_dict())
    coupled = coupled_channels(model, example)
    assert [g.name for g in coupled.groups] == ["b.weight"]
    assert why in coupled.left_out["a.weight"]
    assert "\n" not in coupled.left_out["a.weight"]
    assert model.a.out_channels == 8
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


class InTraining(LiteralView):
    """The literal size stands where only training mode comes."""

    def between(self, x):
        return super().between(x) if self.training else x


def test_training_mode_is_tried_too():
    coupled = coupled_channels(InTraining(), torch.zeros(1, 3, 4, 4))
    assert [g.name for g in coupled.groups] == ["b.weight"]
    assert "in training mode" in coupled.left_out["a.weight"]


class ZeroAtTheStart(Net):
    """A branch whose last scale is zero at the start, as in many residual networks."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def between(self, x):
        return x + self.scale * float(x.detach().numpy().mean())


def test_branches_that_are_silent_at_the_start_are_tried_with_a_voice():
    coupled = coupled_channels(ZeroAtTheStart(), torch.zeros(1, 3, 4, 4))
    assert [g.name for g in coupled.groups] == ["b.weight"]


class Blocks(nn.Module):
    """Many blocks, of which one has a size written in its code."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8 if i else 3, 8) for i in range(9))
        self.end = nn.Linear(8, 2)

    def forward(self, x):
        for i, block in enumerate(self.blocks):
            x = torch.relu(block(x))
            x = x.view(-1, 8) if i == 6 else x
        return self.end(x)


class Inside(Net):
    """The literal size stands in a module of its own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Unflatten(1, (8, 1, 1))

    def between(self, x):
        return x * self.inner(x.mean((2, 3)))


def test_the_module_where_it_breaks_is_named():
    assert "in inner" in coupled_channels(Inside(), torch.zeros(1, 3, 4, 4)).left_out["a.weight"]


def test_one_of_many_is_found():
    coupled = coupled_channels(Blocks(), torch.zeros(2, 3))
    assert [n for n in coupled.left_out if n.startswith("blocks")] == ["blocks.6.weight"]
    assert len(coupled.groups) == 8


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_dtypes(dtype):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    assert [g.units for g in coupled_channels(model, torch.zeros(1, 3)).groups] == [8]
    assert model[0].weight.dtype == dtype


class Locked(nn.Module):
    """It cannot be copied."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.generator = (i for i in range(3))

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def test_what_cannot_be_copied_is_not_proved_and_that_is_said():
    with pytest.warns(UserWarning, match="cannot be copied"):
        coupled = coupled_channels(Locked(), torch.zeros(1, 3))
    assert [g.units for g in coupled.groups] == [4]


def test_halving_finds_what_fails_alone_and_what_fails_together():
    asked = []

    def fault(some):
        asked.append(len(some))
        if {3, 90} & set(some):
            return "alone"
        return "together" if {10, 11} <= set(some) else ""

    passed, faults = largest_passing(range(100), fault, str)
    assert faults == {"3": "alone", "11": "together", "90": "alone"}
    assert passed == [i for i in range(100) if i not in (3, 11, 90)]
    assert len(asked) < 50


def test_an_odd_number_of_units_goes_but_never_all():
    for units in range(1, 20):
        index = torch.arange(units).view(units, 1)
        kept = some_units(Group("a", (Slice("a", 0, index, "output"),)))
        gone = int((~kept).sum())
        assert gone % 2 == (units > 1)
        assert bool(kept.any())


def test_no_groups_are_proved_at_once():
    assert prove_groups(nn.Linear(3, 2), [], torch.zeros(1, 3)) == ([], {})


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_at_fault_where_tracing_is_right(networks, seed):
    model, example = networks.RandomNet(seed), torch.zeros(1, 3, 6, 6)
    groups = traced_groups(model, example)
    proved, faults = prove_groups(model, groups, example)
    assert faults == {}
    assert [g.name for g in proved] == [g.name for g in groups]
