"""A trial masks, adapts batch norm, evaluates, and leaves no trace."""

import pytest
import torch

from steppe import SteppeError
from steppe.engine.step.candidate_evaluation import candidate_evaluator


def whole(grouped):
    return {g.name: torch.ones(g.units, dtype=torch.bool) for g in grouped.groups()}


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(grouped, training):
    net = grouped.Net().train(training)
    net.norm.eval()
    grouped.loss(net)  # some statistics
    before = {n: t.clone() for n, t in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    state = torch.get_rng_state()
    x, _ = grouped.data()

    def evaluate(model):
        assert not model.training
        return float(torch.rand(1))

    trial = candidate_evaluator(net, grouped.groups(), [x], evaluate)
    kept = whole(grouped)
    kept["conv1.weight"][:4] = False
    assert trial(kept) == trial(kept)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(state, torch.get_rng_state())


def test_it_sees_the_masked_network_with_new_statistics(grouped):
    net = grouped.Net()
    x, _ = grouped.data()
    seen = {}

    def evaluate(model):
        seen["rows"] = model.conv1.weight.detach().flatten(1).any(1)
        seen["columns"] = model.conv2.weight.detach().transpose(0, 1).flatten(1).any(1)
        seen["mean"] = model.norm.running_mean.clone()
        return 0.5

    kept = whole(grouped)
    kept["conv1.weight"][[1, 5]] = False
    batches = [x[:8], x[8:], torch.full_like(x, float("nan"))]
    trial = candidate_evaluator(net, grouped.groups(), batches, evaluate, bn_batches=2)
    assert trial(kept) == 0.5
    assert torch.equal(seen["rows"], kept["conv1.weight"])
    assert torch.equal(seen["columns"], kept["conv1.weight"])
    with torch.no_grad():
        torch.testing.assert_close(seen["mean"], net.stem(x).mean((0, 2, 3)))


def test_it_restores_when_the_evaluation_fails(grouped):
    net = grouped.Net()
    before = {n: t.clone() for n, t in net.state_dict().items()}

    def evaluate(model):
        raise ValueError("no data")

    kept = whole(grouped)
    kept["stem.weight"][0] = False
    with pytest.raises(ValueError, match="no data"):
        candidate_evaluator(net, grouped.groups(), [grouped.data()[0]], evaluate)(kept)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    with pytest.raises(SteppeError, match="at least one batch"):
        candidate_evaluator(net, grouped.groups(), [], evaluate, bn_batches=0)
