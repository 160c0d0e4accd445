"""What is masked computes the same when it is removed, for every kind of network."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, Slice
from steppe.removal.channel_groups import channel_groups
from steppe.removal.dependency_graph import traced_groups
from steppe.removal.example import example_of
from steppe.removal.remove import NotTheSame, remove
from steppe.removal.zero_units import units_to_keep

IMAGES = [
    *("resnet20", "vgg11-bn", "lenet-300-100", "small-cnn"),
    *("resnet18-like", "resnet50-like", "mobilenet-v1", "mobilenet-v2"),
]
TRANSFORMERS = ["llama", "qwen3", "vit", "bert", "gpt2", "opt", "gpt_neox", "phi3"]


def logits(model, inputs):
    with torch.no_grad():
        out = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return out if isinstance(out, torch.Tensor) else out.logits


def close(a, b):
    assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


def compare(networks, model, example, seed=0, fraction=0.5):
    """Mask at random, remove, compare on other inputs than the verification's."""
    networks.warm(model)
    groups = channel_groups(model, example)
    kept = networks.draw(groups, fraction, seed)
    dense = copy.deepcopy(model)
    networks.zero(model, groups, kept)
    done = remove(model, example, groups=groups)
    inputs = example_of(model) if example is None else torch.randn(3, *example.shape[1:])
    masked = logits(model, inputs)
    close(logits(done.model, inputs), masked)
    assert not torch.allclose(logits(dense, inputs), masked, rtol=1e-3)  # what went did matter
    gone = {name: int((~alive).sum()) for name, alive in kept.items() if not alive.all()}
    assert done.report["removed"] == gone
    assert done.report["error"] <= 1e-5
    before, after = done.report["parameters"]
    assert after == sum(p.numel() for p in done.model.parameters()) < before
    return done


@pytest.mark.parametrize("name", IMAGES)
def test_masked_equals_removed(networks, name):
    make, shape = networks.image_models()[name]
    compare(networks, make(), torch.zeros(2, *shape))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_masked_equals_removed_for_transformers(networks, name):
    models = networks.transformers_models()
    assert set(models) == set(TRANSFORMERS)
    compare(networks, models[name](), None)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_masked_equals_removed_for_random_networks(networks, seed, fraction):
    model, example = networks.RandomNet(seed), torch.zeros(1, 3, 6, 6)
    networks.warm(model)
    groups = traced_groups(model, example)
    kept = networks.draw(groups, fraction, seed)
    networks.zero(model, groups, kept)
    done = remove(model, example, groups=groups)
    inputs = torch.randn(2, 3, 6, 6)
    close(logits(done.model, inputs), logits(model, inputs))
    assert all(alive.all() == (name not in done.report["removed"]) for name, alive in kept.items())


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda parameters: torch.optim.AdamW(parameters, 1e-2, amsgrad=True),
}


def step(model, optimizer, inputs, labels):
    model.train()
    loss = nn.functional.cross_entropy(
        model(inputs) if isinstance(inputs, torch.Tensor) else model(**inputs).logits, labels
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
@pytest.mark.parametrize("inplace", [True, False])
def test_training_goes_on_as_it_would_have(networks, kind, inplace):
    """Momentum from before removal; then one step equals the masked network's own step."""
    make, shape = networks.image_models()["resnet20"]
    model = networks.warm(make()).double()
    inputs, labels = torch.randn(8, *shape).double(), torch.arange(8)
    optimizer = OPTIMIZERS[kind](model.parameters())
    step(model, optimizer, inputs, labels)
    groups = traced_groups(model, torch.zeros(1, *shape).double())
    kept = networks.draw(groups)
    networks.zero(model, groups, kept)
    masked = copy.deepcopy(model)
    beside = OPTIMIZERS[kind](masked.parameters())
    beside.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    ema = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = remove(model, torch.zeros(1, *shape), optimizer=optimizer, ema=ema, inplace=inplace)
    assert (done.model is model) == inplace
    assert {n: t.shape for n, t in done.ema.items()} == {
        n: t.shape for n, t in done.model.state_dict().items()
    }
    before = {name: p.detach().clone() for name, p in done.model.named_parameters()}
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in done.model.parameters()}
    step(done.model, optimizer, inputs, labels)
    step(masked, beside, inputs, labels)
    own = dict(masked.named_parameters())
    for name, parameter in done.model.named_parameters():
        assert (parameter != before[name]).all(), f"{name} stands still"
        expected = own[name]
        for dim, index in done.plan.stays.get(name, {}).items():
            expected = expected.index_select(dim, index)
        torch.testing.assert_close(parameter, expected, rtol=1e-7, atol=1e-10, msg=name)


def one_group(units=6, multiple=1):
    index = torch.arange(units).view(units, 1)
    rows = Slice("a.weight", 0, index, "output"), Slice("a.bias", 0, index, "bias")
    return Group("a.weight", (*rows, Slice("b.weight", 1, index, "input")), multiple)


def held(dead, units=6):
    alive = torch.ones(units)
    alive[list(dead)] = 0
    return {"a.weight": alive[:, None].repeat(1, 2), "a.bias": alive, "b.weight": torch.ones(1, 6)}


def test_what_is_too_much_for_the_multiple_is_kept_the_lowest_first():
    alive, spared = units_to_keep(one_group(multiple=2), held({1, 3, 4}))
    assert (alive.tolist(), spared) == ([True, True, True, False, False, True], 1)
    alive, spared = units_to_keep(one_group(multiple=4), held(range(6)))
    assert (alive.tolist(), spared) == ([True] * 4 + [False] * 2, 4)
    alive, spared = units_to_keep(one_group(multiple=4), held({0}))
    assert (alive.tolist(), spared) == ([True] * 6, 1)
    alive, spared = units_to_keep(one_group(), held(range(6)))
    assert (alive.tolist(), spared) == ([True] + [False] * 5, 1)


def test_rows_count_only_with_their_bias_and_columns_count_alone():
    tensors = held({1})
    tensors["a.bias"] = torch.ones(6)
    assert units_to_keep(one_group(), tensors)[0].all()
    tensors["b.weight"][:, 2] = 0
    assert units_to_keep(one_group(), tensors)[0].tolist() == [True, True, False, True, True, True]


def test_zero_rows_behind_a_norm_without_scale_are_no_zero_channels():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1)
    )
    net[1].running_mean.fill_(1)
    net[0].weight.data[1] = 0
    with pytest.warns(UserWarning, match="nothing to remove: in none of 1 groups"):
        assert remove(net, torch.zeros(1, 3, 4, 4)).report["removed"] == {}
    net[2].weight.data[:, 1] = 0
    assert remove(net, torch.zeros(1, 3, 4, 4)).report["removed"] == {"0.weight": 1}


def test_what_would_change_is_refused_and_nothing_is_changed():
    """sigmoid(0) is 0.5: a zero row still speaks to whoever reads it."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
    net[0].weight.data[1], net[0].bias.data[1] = 0, 0
    before = copy.deepcopy(net)
    with pytest.raises(NotTheSame, match="not 0 at 0") as error:
        remove(net, torch.zeros(1, 3), inplace=True)
    assert "\n" not in str(error.value)
    assert net[0].out_features == 4
    for a, b in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)


class Literal(nn.Module):
    """Its forward has the number of channels written in it."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.conv(x).view(-1, 4 * 2 * 2))


def test_what_would_not_run_is_refused():
    net = Literal()
    groups = traced_groups(net, torch.zeros(1, 3, 2, 2))  # found, but not proved
    net.conv.weight.data[1], net.conv.bias.data[1] = 0, 0
    with pytest.raises(NotTheSame, match=r"let it read x\.shape") as error:
        remove(net, torch.zeros(1, 3, 2, 2), groups=groups, inplace=True)
    assert "\n" not in str(error.value)
    assert net.conv.out_channels == 4
    with pytest.warns(UserWarning, match="nothing to remove.*invalid for input"):
        assert remove(net, torch.zeros(1, 3, 2, 2)).model.conv.out_channels == 4


def test_without_verification_nothing_is_copied(networks):
    make, shape = networks.image_models()["small-cnn"]
    model, example = networks.warm(make()), torch.zeros(1, *shape)
    groups = traced_groups(model, example)
    networks.zero(model, groups, networks.draw(groups))
    inputs = torch.randn(2, *shape)
    masked = logits(model, inputs)
    done = remove(model, groups=groups, inplace=True, verify=False)
    assert done.model is model
    assert done.report["error"] is None
    close(logits(model, inputs), masked)


def test_masks_are_applied_first(networks):
    make, shape = networks.image_models()["small-cnn"]
    model, example = networks.warm(make()), torch.zeros(1, *shape)
    groups = traced_groups(model, example)
    kept = networks.draw(groups)
    masked = copy.deepcopy(model)
    masks = networks.zero(masked, groups, kept)
    done = remove(model, example, masks=masks)
    inputs = torch.randn(2, *shape)
    close(logits(done.model, inputs), logits(masked, inputs))
    assert model.conv1.weight.all()  # the model that was given is whole
    with pytest.raises(SteppeError, match="conv9"):
        remove(model, example, masks={"conv9": torch.ones(1)})


def test_a_second_removal_goes_on_from_the_first(networks):
    make, shape = networks.image_models()["mobilenet-v2"]
    done = compare(networks, make(), torch.zeros(2, *shape), seed=1, fraction=0.3)
    compare(networks, done.model, torch.zeros(2, *shape), seed=2, fraction=0.3)
    make, shape = networks.image_models()["resnet20"]
    done = compare(networks, make(), torch.zeros(2, *shape), seed=1, fraction=0.3)
    compare(networks, done.model, torch.zeros(2, *shape), seed=2, fraction=0.3)


def test_what_cannot_be_copied_is_one_line_and_its_way_out_works():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net.generator = (i for i in range(3))
    net[2].weight.data[:, 1] = 0
    with pytest.warns(UserWarning, match="no trial removal"):
        groups = channel_groups(net, torch.zeros(1, 3))
    with pytest.raises(SteppeError, match="cannot be copied") as error:
        remove(net, torch.zeros(1, 3), groups=groups)
    assert "\n" not in str(error.value)
    remove(net, torch.zeros(1, 3), inplace=True, verify=False)
    assert net[0].out_features == 3
