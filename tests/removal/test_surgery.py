"""Surgery: sizes that modules keep, nothing half done, optimisers that go on."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import positions
from steppe.removal.dependency_graph import traced_groups
from steppe.removal.surgery import migrate, slice_model, slice_tensors


def keep(*positions):
    return torch.tensor(positions)


def small():
    return nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.BatchNorm2d(6),
        nn.PReLU(6),
        nn.Conv2d(6, 6, 1, groups=6),
        nn.Conv2d(6, 4, 1, groups=2),
        nn.ConvTranspose2d(4, 2, 1),
    )


def test_modules_say_their_new_sizes():
    net = small()
    groups = traced_groups(net, torch.zeros(1, 3, 4, 4))
    assert [g.units for g in groups] == [3, 2]
    shapes = {n: t.shape for n, t in [*net.named_parameters(), *net.named_buffers()]}
    kept = {g.name: torch.arange(g.units) > 0 for g in groups}
    changed = slice_model(net, positions(groups, kept, shapes))
    assert repr(net) == repr(
        nn.Sequential(
            nn.Conv2d(3, 4, 1),
            nn.BatchNorm2d(4),
            nn.PReLU(4),
            nn.Conv2d(4, 4, 1, groups=4),
            nn.Conv2d(4, 2, 1, groups=2),
            nn.ConvTranspose2d(2, 2, 1),
        )
    )
    assert net[1].running_mean.shape == net[1].running_var.shape == (4,)
    assert all(changed[n][1] is p for n, p in net.named_parameters() if n in changed)
    assert set(changed) < set(shapes)
    assert net(torch.zeros(1, 3, 4, 4)).shape == (1, 2, 4, 4)


def test_gradients_and_what_needs_none_are_carried():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[0].bias.requires_grad_(False)
    net(torch.randn(2, 3)).sum().backward()
    grad = net[1].weight.grad.clone()
    both = keep(0, 3)
    slice_model(net, {"0.weight": {0: both}, "0.bias": {0: both}, "1.weight": {1: both}})
    assert not net[0].bias.requires_grad
    assert torch.equal(net[1].weight.grad, grad[:, both])


def test_tied_weights_stay_tied():
    net = nn.ModuleDict({"a": nn.Linear(3, 4, bias=False), "b": nn.Linear(3, 4, bias=False)})
    net["b"].weight = net["a"].weight
    slice_model(net, {"a.weight": {0: keep(1, 2)}})
    assert net["b"].weight is net["a"].weight
    assert net["b"].out_features == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"0.weight": {0: keep(0, 6)}},
        {"0.weight": {0: keep()}},
        {"0.weight": {0: keep(1, 0)}},
        {"0.weight": {4: keep(0)}},
        {"9.weight": {0: keep(0)}},
        {"4.weight": {0: keep(0, 1, 2)}},
    ],
    ids=["too far", "empty", "not ascending", "dimension", "name", "groups"],
)
def test_what_does_not_fit_changes_nothing(wrong):
    net = small()
    before = copy.deepcopy(net)
    with pytest.raises(SteppeError, match="Nothing was changed") as error:
        slice_model(net, {"1.weight": {0: keep(0)}, **wrong})
    assert "\n" not in str(error.value)
    assert repr(net) == repr(before)
    for a, b in zip(net.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_an_optimiser_keeps_its_groups_steps_and_other_parameters():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(
        [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[1].parameters()}]
    )
    net(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    old = {n: copy.deepcopy(optimizer.state[p]) for n, p in net.named_parameters()}
    both = keep(0, 3)
    stays = {"0.weight": {0: both}, "0.bias": {0: both}, "1.weight": {1: both}}
    migrate(optimizer, slice_model(net, stays), stays)
    assert [len(g["params"]) for g in optimizer.param_groups] == [2, 2]
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert len(optimizer.state) == 4
    state = optimizer.state[net[1].weight]
    assert torch.equal(state["exp_avg_sq"], old["1.weight"]["exp_avg_sq"][:, both])
    assert state["step"] == 1
    assert torch.equal(optimizer.state[net[1].bias]["exp_avg"], old["1.bias"]["exp_avg"])


def test_optimisers_that_cannot_go_on_say_so():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    stays = {"0.weight": {0: keep(0, 3)}, "0.bias": {0: keep(0, 3)}, "1.weight": {1: keep(0, 3)}}
    stranger = torch.optim.SGD(nn.Linear(3, 4).parameters(), 0.1)
    own = torch.optim.SGD(net.parameters(), 0.1)
    own.state[net[0].weight]["rows"] = torch.zeros(4)
    parameters = list(own.param_groups[0]["params"])
    changed = slice_model(net, stays)
    with pytest.raises(SteppeError, match="with none of them"):
        migrate(stranger, changed, stays)
    with pytest.raises(SteppeError, match=r"rows of 0.weight"):
        migrate(own, changed, stays)
    assert own.param_groups[0]["params"] == parameters


def test_averages_are_cut_whatever_wrapped_them():
    stays = {"a": {0: keep(1)}}
    averages = {"module.a": torch.arange(3), "n_averaged": torch.tensor(2)}
    assert {k: v.tolist() for k, v in slice_tensors(averages, stays).items()} == {
        "module.a": [1],
        "n_averaged": 2,
    }


def test_a_resnet50_takes_seconds():
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(ResNetConfig(num_labels=10))
    start = time.process_time()
    groups = traced_groups(model, torch.zeros(1, 3, 64, 64))
    shapes = {n: t.shape for n, t in [*model.named_parameters(), *model.named_buffers()]}
    kept = {g.name: torch.arange(g.units) % 2 == 0 for g in groups}
    slice_model(model, positions(groups, kept, shapes))
    assert time.process_time() - start < 5
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 10)
