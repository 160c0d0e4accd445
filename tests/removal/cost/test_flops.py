"""FLOPs beside torch's own counter, which counts a multiplication and an addition as two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steppe.core.group import Group, Slice
from steppe.removal.cost import COSTS
from steppe.vision.models import build


def counted(net: nn.Module, example: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        net(example)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["resnet20", "vgg11-bn", "lenet-300-100"])
def test_whole_networks(name: str) -> None:
    shape = (1, 28, 28) if name.startswith("lenet") else (3, 32, 32)
    net = build(name, 10, shape).eval()
    cost = COSTS["flops"].of(net, torch.zeros(4, *shape), [])
    assert 2 * cost.total({}) == counted(net, torch.zeros(1, *shape))
    assert cost.unit == "multiply-adds"


def test_tokens_and_a_volume() -> None:
    net = nn.Sequential(nn.Conv3d(2, 6, 3, groups=2), nn.Flatten(2), nn.Linear(8, 5))
    example = torch.zeros(1, 2, 4, 4, 4)
    cost = COSTS["flops"].of(net, example, [])
    assert 2 * cost.total({}) == counted(net, example)


def test_a_grouped_convolution_keeps_its_groups() -> None:
    def wide(units: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 2 * units, 1), nn.Conv2d(2 * units, 4, 3, groups=2))

    index = torch.arange(8).view(2, 4).t().contiguous()  # one channel of either half
    each = torch.arange(4).view(4, 1)
    pair = Group(
        "0.weight", (Slice("0.weight", 0, index, "output"), Slice("1.weight", 1, each, "input"))
    )
    example = torch.zeros(1, 3, 6, 6)
    cost = COSTS["flops"].of(wide(4), example, [pair])
    for units in (1, 3, 4):
        assert 2 * cost.total({"0.weight": units}) == counted(wide(units), example)


@pytest.mark.parametrize("groups_in", [1, 2, 4])
def test_transposed(groups_in: int) -> None:
    def wide(units: int) -> nn.Module:
        inner = units * groups_in if groups_in < 4 else units
        many = units if groups_in == 4 else groups_in
        return nn.Sequential(
            nn.ConvTranspose2d(3, inner, 3, 2),
            nn.ConvTranspose2d(inner, 2 * inner, 2, groups=many),
        )

    units = 4
    each = groups_in if groups_in < 4 else 1
    index = torch.arange(units * each).view(each, units).t().contiguous()
    pair = Group(
        "0.weight", (Slice("0.weight", 1, index, "output"), Slice("1.weight", 0, index, "input"))
    )
    example = torch.zeros(1, 3, 5, 5)
    cost = COSTS["flops"].of(wide(4), example, [pair])
    for left in (1, 3, 4):
        small = wide(left)
        if groups_in == 2:  # the outputs stay
            small[1] = nn.ConvTranspose2d(2 * left, 16, 2, groups=2)
        elif groups_in == 1:
            small[1] = nn.ConvTranspose2d(left, 8, 2)
        assert 2 * cost.total({"0.weight": left}) == counted(small, example)


def test_linear_layers_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    net = nn.Sequential(transformers.pytorch_utils.Conv1D(6, 4), nn.Linear(6, 5))
    column = torch.arange(6)[:, None]
    inner = Group(
        "0.weight", (Slice("0.weight", 1, column, "output"), Slice("1.weight", 1, column, "input"))
    )
    cost = COSTS["flops"].of(net, torch.zeros(2, 7, 4), [inner])
    assert cost.total({"0.weight": 2}) == 7 * (4 * 2 + 2 * 5)
