"""Batch-norm statistics: frozen for a pass, or estimated anew."""

import pytest
import torch
from torch import nn

from steppe.engine.step.batchnorm import frozen_statistics, reestimate


def network():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4, momentum=0.3),
    )  # fmt: skip


BATCHES = [torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def statistics(model):
    return {k: v.clone() for k, v in model.state_dict().items() if "running" in k or "num" in k}


def test_frozen_normalises_by_the_batch_and_keeps_the_statistics():
    model = network()
    model[3].p = 0.0
    before = statistics(model)
    with frozen_statistics(model):
        frozen = model(BATCHES[0])
    after = statistics(model)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(frozen, model(BATCHES[0])), "not what training computes"
    assert not torch.equal(statistics(model)["1.running_mean"], before["1.running_mean"])


def test_frozen_ends_with_an_error_too():
    model = network()
    with pytest.raises(KeyError), frozen_statistics(model):
        raise KeyError
    assert model[1].track_running_stats
    assert model[5].track_running_stats


def test_a_norm_in_evaluation_stays_there():
    model = network().eval()
    with frozen_statistics(model):
        a = model(BATCHES[0])
    assert torch.equal(a, model(BATCHES[0]))
    assert all(m.track_running_stats for m in (model[1], model[5]))


def test_a_norm_without_statistics_is_left_alone():
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    with frozen_statistics(norm):
        norm(torch.randn(4, 3))
    assert not norm.track_running_stats
    assert reestimate(norm, [torch.randn(4, 3)]) == 0


def test_reestimated_is_the_plain_average():
    model = network()
    model[1].running_mean += 100.0  # no trace of the old ones may remain
    weights = {k: v.clone() for k, v in model.named_parameters()}
    assert reestimate(model, BATCHES) == 4
    hidden = [model[0](x) for x in BATCHES]
    mean = torch.stack([h.mean((0, 2, 3)) for h in hidden]).mean(0)
    variance = torch.stack([h.var((0, 2, 3), unbiased=True) for h in hidden]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)
    assert all(torch.equal(p, weights[k]) for k, p in model.named_parameters())


def test_reestimating_restores_modes_and_momenta():
    model = network()
    model[0].eval()
    modes = [m.training for m in model.modules()]
    reestimate(model, BATCHES)
    assert [m.training for m in model.modules()] == modes
    assert (model[1].momentum, model[5].momentum) == (0.1, 0.3)


def test_dropout_takes_no_part():
    model = network()
    reestimate(model, BATCHES)
    first = statistics(model)
    torch.manual_seed(7)
    reestimate(model, BATCHES)
    second = statistics(model)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_nothing_to_estimate_from():
    assert reestimate(nn.Linear(2, 2), []) == 0
    with pytest.raises(AssertionError, match="no batch"):
        reestimate(network(), [])
