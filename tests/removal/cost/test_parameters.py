"""Parameters, exactly as counted in a network that was shrunk by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steppe.core.group import Group, Slice
from steppe.removal.channel_groups import channel_groups
from steppe.removal.cost import COSTS
from steppe.removal.example import example_of
from steppe.removal.remove import remove


def units(start: int, count: int, each: int = 1) -> Tensor:
    return torch.arange(start, start + count * each).view(count, each)


def network(a: int = 8, b: int = 6) -> nn.Sequential:
    """Two widths: a (with a depthwise convolution) and b (flattened, 4 positions each)."""
    return nn.Sequential(
        nn.Conv2d(3, a, 3, padding=1),
        nn.BatchNorm2d(a),
        nn.Conv2d(a, a, 3, stride=2, padding=1, groups=a, bias=False),
        nn.ReLU(),
        nn.Conv2d(a, b, 3, stride=2, padding=1),
        nn.BatchNorm2d(b),
        nn.Flatten(),
        nn.Linear(4 * b, 5),
    )


def groups(a: int = 8, b: int = 6) -> list[Group]:
    first = [
        Slice("0.weight", 0, units(0, a), "output"),
        Slice("0.bias", 0, units(0, a), "bias"),
        Slice("1.weight", 0, units(0, a), "norm"),
        Slice("1.bias", 0, units(0, a), "norm"),
        Slice("1.running_mean", 0, units(0, a), "buffer"),
        Slice("2.weight", 0, units(0, a), "output"),
        Slice("4.weight", 1, units(0, a), "input"),
    ]
    second = [
        Slice("4.weight", 0, units(0, b), "output"),
        Slice("4.bias", 0, units(0, b), "bias"),
        Slice("5.weight", 0, units(0, b), "norm"),
        Slice("5.bias", 0, units(0, b), "norm"),
        Slice("7.weight", 1, units(0, b, 4), "input"),
    ]
    return [Group("0.weight", tuple(first)), Group("4.weight", tuple(second))]


EXAMPLE = torch.zeros(1, 3, 8, 8)
WIDTHS = [(8, 6), (1, 1), (3, 6), (8, 2), (5, 4)]


@pytest.mark.parametrize(("a", "b"), WIDTHS)
def test_equal_to_the_count(a: int, b: int) -> None:
    cost = COSTS["parameters"].of(network(), EXAMPLE, groups())
    by_hand = sum(p.numel() for p in network(a, b).parameters())
    assert cost.total({"0.weight": a, "4.weight": b}) == by_hand


def test_a_group_not_named_is_whole() -> None:
    cost = COSTS["parameters"].of(network(), EXAMPLE, groups())
    assert cost.total({}) == sum(p.numel() for p in network().parameters())
    assert cost.total({"0.weight": 3}) == sum(p.numel() for p in network(3).parameters())


@pytest.mark.parametrize("name", ["parameters", "flops"])
def test_along_is_the_change_of_the_total(name: str) -> None:
    cost = COSTS[name].of(network(), EXAMPLE, groups())
    kept = {"0.weight": 5, "4.weight": 4}
    for group, full in (("0.weight", 8), ("4.weight", 6)):
        widths = range(1, full + 1)
        expected = [cost.total(kept | {group: w}) - cost.total(kept) for w in widths]
        assert cost.along(kept, group, widths) == expected
    assert cost.along(kept, "nowhere", [1, 2]) == [0, 0]
    assert kept == {"0.weight": 5, "4.weight": 4}


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self, wide: int = 4) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, wide, bias=False), nn.Linear(3, wide, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    # under whichever of its names the group knows it
    tied = Group("b.weight", (Slice("b.weight", 0, units(0, 4), "output"),))
    cost = COSTS["parameters"].of(Tied(), torch.zeros(1, 3), [tied])
    assert cost.total({}) == 12
    assert cost.total({"b.weight": 1}) == 3


@pytest.mark.parametrize(("a", "b"), WIDTHS)
def test_flops_of_the_same_network(a: int, b: int) -> None:
    cost = COSTS["flops"].of(network(), EXAMPLE, groups())
    with FlopCounterMode(display=False) as counter:
        network(a, b)(EXAMPLE)
    assert 2 * cost.total({"0.weight": a, "4.weight": b}) == counter.get_total_flops()


IMAGES = ["resnet20", "vgg11-bn", "resnet50-like", "mobilenet-v1", "mobilenet-v2"]


@pytest.mark.parametrize("name", IMAGES)
def test_whole_networks_after_removal(networks, name: str) -> None:
    make, shape = networks.image_models()[name]
    model, example = networks.warm(make()), torch.zeros(1, *shape)
    coupled = channel_groups(model, example)
    kept = networks.draw(coupled, 0.4)
    costs = {n: COSTS[n].of(model, example, coupled) for n in ("parameters", "flops")}
    networks.zero(model, coupled, kept)
    small = remove(model, example, groups=coupled).model
    counts = {n: int(k.sum()) for n, k in kept.items()}
    assert costs["parameters"].total(counts) == sum(p.numel() for p in small.parameters())
    with FlopCounterMode(display=False) as counter:
        small(example)
    assert 2 * costs["flops"].total(counts) == counter.get_total_flops()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0.1, 0.9))
def test_random_networks_after_removal(networks, seed: int, fraction: float) -> None:
    model, example = networks.warm(networks.RandomNet(seed)), torch.zeros(1, 3, 6, 6)
    coupled = channel_groups(model, example)
    kept = networks.draw(coupled, fraction, seed)
    costs = {n: COSTS[n].of(model, example, coupled) for n in ("parameters", "flops")}
    networks.zero(model, coupled, kept)
    small = remove(model, example, groups=coupled).model
    counts = {n: int(k.sum()) for n, k in kept.items()}
    assert costs["parameters"].total(counts) == sum(p.numel() for p in small.parameters())
    with FlopCounterMode(display=False) as counter:
        small(example)
    assert 2 * costs["flops"].total(counts) == counter.get_total_flops()


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gpt2", "opt", "vit", "bert", "gpt_neox", "phi3"]
)
def test_transformers_after_removal(networks, name: str) -> None:
    pytest.importorskip("transformers")
    model = networks.warm(networks.transformers_models()[name]())
    coupled, example = channel_groups(model, None), example_of(model)
    kept = networks.draw(coupled, 0.4)
    costs = {n: COSTS[n].of(model, example, coupled) for n in ("parameters", "flops")}
    networks.zero(model, coupled, kept)
    small = remove(model, None, groups=coupled).model
    counts = {n: int(k.sum()) for n, k in kept.items()}
    assert costs["parameters"].total(counts) == sum(p.numel() for p in small.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(**example)
    by_kind = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    layers = sum(n for op, n in by_kind.items() if op in ("aten.mm", "aten.addmm"))
    layers += by_kind.get("aten.convolution", 0)  # the rest is attention
    samples = len(next(iter(example.values())))
    assert 2 * samples * costs["flops"].total(counts) == layers
