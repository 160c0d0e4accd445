"""The norm's own numbers say what a gate behind it would."""

import pytest
import torch
from torch import nn

import steppe
from steppe import Method, SteppeError
from steppe.core.group import Group

METHOD = Method(
    score="taylor_gate", structure="channel", budget={"name": "pooled", "sparsity": 0.5}
)


class Gated(nn.Module):
    """A norm with a gate of ones behind it."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.gate = norm, nn.Parameter(torch.ones(norm.num_features))

    def forward(self, x):
        return self.norm(x) * self.gate[:, None, None]


def test_equals_the_gates_gradient_squared(grouped):
    net = grouped.Net()
    with torch.no_grad():
        for p in (net.norm1.weight, net.norm1.bias, net.norm.weight, net.norm.bias):
            p.uniform_(-1, 1)
    select = grouped.selector(net, METHOD)
    weights = grouped.observe(net, select, [slice(0, 16)])
    norms = {"conv1.weight": "norm1"}  # the other group has a layer without a norm, too
    made = select.units(select.method.score, weights)
    for group, name in norms.items():
        gated = Gated(getattr(net, name))
        setattr(net, name, gated)
        net.zero_grad()
        grouped.loss(net).backward()
        torch.testing.assert_close(made[group], gated.gate.grad.square(), rtol=1e-3, atol=1e-9)
        setattr(net, name, gated.norm)


def test_does_not_depend_on_the_order_of_batches(grouped):
    net = grouped.Net().eval()
    values = []
    for order in ([0, 8], [8, 0]):
        select = grouped.selector(net, METHOD)
        statistic = select.statistics["gate_square"]
        seen = []
        for start in order:
            grouped.observe(net, select, [slice(start, start + 8)])
            seen.append({n: v.clone() for n, v in statistic.values.items()})
        values.append({n: seen[0][n] + seen[1][n] for n in seen[0]})
    for name, value in values[0].items():
        torch.testing.assert_close(value, values[1][name])


def test_a_group_without_norm_is_named(grouped):
    (trunk, inner) = grouped.groups()
    bare = Group("bare", tuple(s for s in inner.slices if s.role != "norm"))
    with pytest.raises(SteppeError, match=r"taylor_gate.*bare.*Way out"):
        METHOD.score.members(bare, {})
    assert METHOD.score.members(trunk, {"norm.weight": torch.ones(6)}).shape == (6, 1)


def test_a_pass_that_failed_does_not_count_as_seen(grouped):
    """A batch without enough memory is tried again: the rest of the network was not passed yet."""

    def learned(fails):
        torch.manual_seed(0)
        net = grouped.Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        method = METHOD.replace(schedule={"name": "cubic", "start": 0.5})
        s = steppe.sparsify(net, optimizer, method, 4, groups=grouped.groups())
        if fails:
            hook = net.conv1.register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                s.step(lambda: grouped.loss(net))
            hook.remove()
            net.norm.reset_running_stats()
        s.step(lambda: grouped.loss(net))
        return s.state_dict()["statistics"]["gate_square"]

    plain, again = learned(False), learned(True)
    for name, values in plain.items():
        assert torch.equal(values, again[name]), name
