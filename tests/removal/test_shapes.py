"""Shapes of layers are read by one forward pass that changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from steppe import SteppeError
from steppe.core.group import Group, Slice
from steppe.removal.shapes import LayerShape, layer_shapes


def column(start: int, units: int, each: int = 1) -> Tensor:
    return torch.arange(start, start + units * each).view(units, each)


def shapes(net: nn.Module, example: object, groups: list[Group]) -> dict[str, LayerShape]:
    return {s.name: s for s in layer_shapes(net, example, groups)}


def test_flatten_and_concatenation() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 6, 1, 2)
            self.norm = nn.BatchNorm2d(10)
            self.head = nn.Linear(40, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(torch.cat([self.a(x), self.b(x)], 1)).flatten(1))

    a = Group(
        "a.weight",
        (
            Slice("a.weight", 0, column(0, 4), "output"),
            Slice("a.bias", 0, column(0, 4), "bias"),
            Slice("norm.weight", 0, column(0, 4), "norm"),
            Slice("head.weight", 1, column(0, 4, 4), "input"),
        ),
    )
    b = Group(
        "b.weight",
        (
            Slice("b.weight", 0, column(0, 6), "output"),
            Slice("norm.weight", 0, column(4, 6), "norm"),
            Slice("head.weight", 1, column(16, 6, 4), "input"),
        ),
        multiple=2,
    )
    by_name = shapes(Two(), torch.zeros(2, 3, 4, 4), [a, b])
    assert list(by_name) == ["a", "b", "norm", "head"]
    assert by_name["a"].features == (4, 4)
    assert by_name["a"].positions == 4
    assert by_name["a"].kernel == (3, 3)
    assert by_name["a"].stride == (2, 2)
    assert by_name["a"].padding == (1, 1)
    kept = {"a.weight": 3, "b.weight": 2}
    assert [s.widths(kept) for s in by_name.values()] == [(3, 3), (3, 2), (5, 5), (20, 5)]
    assert [s.widths({}) for s in by_name.values()] == [(3, 4), (3, 6), (10, 10), (40, 5)]
    assert by_name["head"].inputs.least == 4 * 1 + 4 * 2
    assert by_name["a"].multiply_adds(kept) == 4 * 3 * 3 * 9
    assert by_name["norm"].multiply_adds(kept) == 0


def test_grouped_and_depthwise() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 8, 1, groups=2)
    )
    inner = Group(
        "0.weight",
        (
            Slice("0.weight", 0, column(0, 8), "output"),
            Slice("1.weight", 0, column(0, 8, 2), "output"),
        ),
    )
    # the unit of a grouped convolution's input is one channel of each of its groups
    wide = Group("1.weight", (Slice("2.weight", 1, column(0, 8), "input"),))
    by_name = shapes(net, torch.zeros(1, 4, 5, 5), [inner])
    assert by_name["1"].depthwise
    assert by_name["1"].widths({"0.weight": 5}) == (5, 10)
    assert by_name["1"].multiply_adds({"0.weight": 5}) == 9 * 10 * 9
    by_name = shapes(net, torch.zeros(1, 4, 5, 5), [wide])
    assert by_name["2"].widths({"1.weight": 3}) == (6, 8)
    assert by_name["2"].multiply_adds({"1.weight": 3}) == 9 * 8 * 3


def test_what_is_folded_into_the_batch_counts_for_each_sample() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 2), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            windows = x.unflatten(2, (2, 4)).transpose(1, 2).flatten(0, 1)
            return self.linear(self.conv(windows).permute(0, 2, 3, 1).flatten(0, 2))

    for samples in (1, 3):
        by_name = shapes(Windows(), torch.zeros(samples, 3, 8, 4), [])
        assert by_name["conv"].folded == 2
        assert by_name["conv"].positions == 2 * 9
        assert by_name["linear"].folded == by_name["linear"].positions == 18
        assert by_name["linear"].features == ()


def test_positions_named_twice_count_once() -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False))
    twice = Group(
        "0.weight",
        (
            Slice("0.weight", 0, column(0, 4), "output"),
            Slice("0.weight", 0, column(0, 4), "output"),
        ),
    )
    by_name = shapes(net, torch.zeros(1, 7, 3), [twice])
    assert by_name["0"].widths({"0.weight": 1}) == (3, 1)
    assert by_name["0"].features == (7,)


def test_called_twice_is_two_shapes_and_arguments_of_any_form() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.linear(x) + self.linear(y)

    x = torch.zeros(1, 3)
    for given in ((x, x), [x, x], {"x": x, "y": x}):
        assert [s.name for s in layer_shapes(Net(), given, [])] == ["linear", "linear"]


def test_the_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    layer_shapes(net, torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)), [])
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in net] == [True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_no_layer_at_all() -> None:
    with pytest.raises(SteppeError, match="called none"):
        layer_shapes(nn.ReLU(), torch.zeros(1, 3), [])
