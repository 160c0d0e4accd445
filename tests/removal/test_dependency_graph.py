"""Which channels go together: by hand for ResNet-20, by properties for everything else."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steppe.core.errors import SteppeError
from steppe.removal.dependency_graph import trace_channels, traced_groups
from steppe.vision.models import build

IMAGE = torch.zeros(1, 3, 32, 32)
NAMES = [
    *("resnet20", "vgg11-bn", "lenet-300-100", "small-cnn"),
    *("resnet18-like", "resnet50-like", "mobilenet-v1", "mobilenet-v2"),
]


def places(groups):
    return [
        (s.name, s.dim, i) for g in groups for s in g.slices for i in s.index.flatten().tolist()
    ]


def test_resnet20_is_coupled_as_its_shortcuts_say():
    """Option A: 16 channels lie in the middle of 32, these in the middle of 64."""
    groups = {g.name: g for g in traced_groups(build("resnet20", 10), IMAGE)}
    inner = {f"layer{s}.{b}.conv1.weight": 8 * 2**s for s in (1, 2, 3) for b in (0, 1, 2)}
    streams = {"conv1.weight": 16, "layer2.0.conv2.weight": 16, "layer3.0.conv2.weight": 32}
    assert {name: g.units for name, g in groups.items()} == inner | streams
    seen = {
        name: {s.name: s.index.flatten().tolist() for s in groups[name].slices if s.role == role}
        for name in streams
        for role in ("output",)
    }
    first, second, third = list(range(16)), [*range(8), *range(24, 32)], [*range(64)]
    blocks = range(3)
    assert seen["conv1.weight"] == {
        "conv1.weight": first,
        **{f"layer1.{b}.conv2.weight": first for b in blocks},
        **{f"layer2.{b}.conv2.weight": [8 + i for i in first] for b in blocks},
        **{f"layer3.{b}.conv2.weight": [24 + i for i in first] for b in blocks},
    }
    assert seen["layer2.0.conv2.weight"] == {
        **{f"layer2.{b}.conv2.weight": second for b in blocks},
        **{f"layer3.{b}.conv2.weight": [16 + i for i in second] for b in blocks},
    }
    outside = third[:16] + third[48:]
    assert seen["layer3.0.conv2.weight"] == {f"layer3.{b}.conv2.weight": outside for b in blocks}
    read = {s.name for s in groups["conv1.weight"].slices if s.role == "input"}
    assert read == {f"layer{s}.{b}.conv1.weight" for s in (1, 2, 3) for b in blocks} | {
        "linear.weight"
    }
    shift = {s.name for s in groups["layer1.0.conv1.weight"].slices}
    assert shift == {
        "layer1.0.conv1.weight",
        *(f"layer1.0.bn1.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
        "layer1.0.conv2.weight",
    }


@pytest.mark.parametrize("name", NAMES)
def test_no_position_lies_in_two_units(networks, name):
    assert set(networks.image_models()) == set(NAMES)
    make, shape = networks.image_models()[name]
    groups = traced_groups(make(), torch.zeros(1, *shape))
    positions = places(groups)
    assert len(positions) == len(set(positions))
    assert len({g.name for g in groups}) == len(groups)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_no_position_lies_in_two_units_of_random_networks(networks, seed):
    positions = places(traced_groups(networks.RandomNet(seed).eval(), torch.zeros(1, 3, 6, 6)))
    assert len(positions) == len(set(positions))


def coupled(graph, model, name, channel):
    """What torch-pruning couples with one output channel: (weight, dimension, position)."""
    import torch_pruning as tp

    module = model.get_submodule(name)
    names = {m: n for n, m in model.named_modules()}
    is_linear = isinstance(module, nn.Linear)
    prune = tp.prune_linear_out_channels if is_linear else tp.prune_conv_out_channels
    slices = set()
    for dependency, index in graph.get_pruning_group(module, prune, [channel]):
        target = dependency.target.module
        if isinstance(target, nn.Conv2d | nn.Linear):
            depthwise = isinstance(target, nn.Conv2d) and target.groups > 1
            reads = "in_channels" in dependency.handler.__name__ and not depthwise
            slices |= {(f"{names[target]}.weight", int(reads), i) for i in index}
    return slices


@pytest.mark.parametrize("name", [n for n in NAMES if n != "resnet20"])
def test_the_same_as_torch_pruning_where_that_can_follow(networks, name):
    """An independent tracer. It takes the zeros around the shortcuts of resnet20 for channels."""
    import torch_pruning as tp

    make, shape = networks.image_models()[name]
    model, example = make().eval(), torch.zeros(1, *shape)
    graph = tp.DependencyGraph().build_dependency(model, example)
    for group in traced_groups(model, example):
        rows = group.slices[0]
        for unit in {0, group.units // 2, group.units - 1}:
            own = {
                (s.name, s.dim, i)
                for s in group.slices
                if s.role in ("output", "input")
                for i in s.index[unit].tolist()
            }
            root = rows.name.removesuffix(".weight")
            assert coupled(graph, model, root, int(rows.index[unit, 0])) == own


def test_the_model_is_left_as_it_was():
    model = build("resnet20", 10).train()
    model.layer1.eval()
    model.conv1.weight.requires_grad_(False)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    before = copy.deepcopy(model)
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    traced_groups(model, torch.randn(2, 3, 32, 32))
    state_after = torch.get_rng_state()
    torch.set_rng_state(state)
    torch.randn(2, 3, 32, 32)
    assert torch.equal(torch.get_rng_state(), state_after)
    assert [m.training for m in model.modules()] == modes
    for (name, a), (_, b) in zip(
        model.state_dict().items(), before.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.requires_grad == (parameter is not model.conv1.weight)
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_grouped_convolutions_lose_the_same_place_of_each_group():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=2), nn.ReLU(), nn.Conv2d(12, 2, 1)
    )
    first, second = traced_groups(net, torch.zeros(1, 3, 4, 4))
    assert first.slices[0].index.tolist() == [[i, i + 4] for i in range(4)]
    read = next(s for s in first.slices if s.role == "input")
    assert (read.name, read.index.tolist()) == ("1.weight", [[0], [1], [2], [3]])
    assert second.slices[0].index.tolist() == [[i, i + 6] for i in range(6)]


def test_flattened_channels_own_several_columns():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    (group,) = traced_groups(net, torch.zeros(1, 3, 2, 2))
    assert group.slices[-1].index.tolist() == [[4 * i + j for j in range(4)] for i in range(4)]


class Mixed(nn.Module):
    """c reads a beside b; d, which is added to b, goes with b."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.d = (nn.Conv2d(3, 4, 1) for _ in range(3))
        self.c = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        b = self.b(x)
        return self.c(torch.cat([self.a(x), b + self.d(x)], 1))


def test_concatenations_beside_sums():
    a, b = traced_groups(Mixed(), torch.zeros(1, 3, 4, 4))
    assert [s.name for s in a.slices] == ["a.weight", "a.bias", "c.weight"]
    assert a.slices[-1].index.flatten().tolist() == [0, 1, 2, 3]
    assert [s.name for s in b.slices if s.role == "output"] == ["b.weight", "d.weight"]
    assert b.slices[-1].index.flatten().tolist() == [4, 5, 6, 7]


def test_what_goes_through_a_norm_over_channels_stays_with_a_reason():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    seen = trace_channels(net, torch.zeros(1, 3, 4, 4))
    assert [g.name for g in seen.groups] == ["2.weight"]
    assert "norm that mixes channels" in seen.left_out["0.weight"]


def test_excluded_layers_stay_whole_and_so_does_what_they_read():
    model = build("small-cnn", 10, (1, 8, 8))
    names = [g.name for g in traced_groups(model, torch.zeros(1, 1, 8, 8), exclude=["conv2"])]
    assert names == ["conv3.weight"]


def test_multiples_hold_where_there_are_enough_units():
    groups = traced_groups(build("small-cnn", 10, (1, 8, 8)), torch.zeros(1, 1, 8, 8), round_to=12)
    assert [(g.units, g.multiple) for g in groups] == [(16, 1), (32, 12), (64, 12)]


class Named(nn.Module):
    """Takes keyword arguments and returns more than one thing."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.side = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x, scale):
        x = torch.relu(self.one(x)) * scale
        return {"logits": self.two(x), "more": (self.side(x), None)}


@pytest.mark.parametrize(
    "inputs",
    [(torch.zeros(1, 3), torch.ones(())), {"scale": torch.ones(()), "x": torch.zeros(1, 3)}],
    ids=["tuple", "dict"],
)
def test_inputs_and_outputs_of_all_forms(inputs):
    (group,) = traced_groups(Named(), inputs)
    assert {s.name for s in group.slices} == {"one.weight", "one.bias", "two.weight", "side.weight"}


class Unknown(nn.Module):
    """An operation in the middle that has no rule."""

    def __init__(self):
        super().__init__()
        self.a, self.mix, self.b = nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 6)
        self.c = nn.Linear(6, 2)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.cdist(self.a(x), torch.eye(4)))))


def line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_cannot_be_followed_stays_and_is_named_with_the_operation():
    traced = trace_channels(Unknown(), torch.zeros(1, 2, 3))
    assert [g.name for g in traced.groups] == ["b.weight"]
    assert "_cdist_forward" in traced.left_out["a.weight"]


def test_inputs_that_the_model_refuses():
    with pytest.raises(SteppeError, match=r"\(1, 1, 32, 32\).*dict of keyword") as error:
        traced_groups(build("resnet20", 10), torch.zeros(1, 1, 32, 32))
    line(error)


def test_nothing_left_and_patterns_that_match_nothing():
    with pytest.raises(SteppeError, match="all must stay") as error:
        traced_groups(nn.Sequential(nn.Linear(3, 2)), torch.zeros(1, 3))
    line(error)
    with pytest.raises(SteppeError, match=r"'conv9'.*names look like conv1") as error:
        traced_groups(build("resnet20", 10), IMAGE, exclude=["conv9"])
    line(error)
