"""Batch-norm statistics: frozen for a pass, or estimated anew."""

import pytest
import torch
from torch import nn

from steppe.engine.step.batchnorm import reestimate, running_norms


def network():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4, momentum=0.3),
    )  # fmt: skip


BATCHES = [torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def statistics(model):
    return {k: v.clone() for k, v in model.state_dict().items() if "running" in k or "num" in k}


def test_a_norm_without_statistics_is_left_alone():
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    assert reestimate(norm, [torch.randn(4, 3)]) == 0
    assert not norm.track_running_stats


NORMS = {
    "instance": (lambda: nn.InstanceNorm2d(3, track_running_stats=True), (64, 3, 8, 8)),
    "instance-affine": (
        lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True, momentum=0.5),
        (64, 3, 8),
    ),
    "lazy-instance": (lambda: nn.LazyInstanceNorm2d(track_running_stats=True), (64, 3, 8, 8)),
    "lazy-batch": (nn.LazyBatchNorm2d, (64, 3, 8, 8)),
    "sync": (lambda: nn.SyncBatchNorm(3), (64, 3, 8)),
}


@pytest.mark.parametrize("kind", NORMS)
def test_every_norm_with_running_statistics(kind):
    make, shape = NORMS[kind]
    norm = make()
    if kind == "sync":
        norm = nn.Sequential(norm)[0].eval()  # on a CPU it only counts
        assert list(running_norms(nn.Sequential(norm))) == ["0"]
        return
    momentum = norm.momentum
    batches = [torch.randn(shape) * 3 + 5 + i for i in range(3)]
    assert reestimate(norm, batches) == 3
    over = (0, 2, 3)[: len(shape) - 1]
    means = torch.stack([b.mean(over) for b in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    assert ((norm.running_var - 9).abs() < 1.5).all()
    assert norm.momentum == momentum
    assert not norm._forward_pre_hooks


def test_a_norm_called_twice_averages_all_its_calls():
    norm = nn.InstanceNorm1d(2, track_running_stats=True)
    model = nn.Sequential(norm, norm)
    x = torch.randn(4, 2, 8) + 2
    reestimate(model, [x])
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2)) / 2, atol=1e-6, rtol=1e-5)


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
