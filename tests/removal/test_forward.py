"""A model is run in either mode and left as it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.removal.forward import RunningModules, call, kept_tensors, two_samples, untouched


def test_two_samples_where_all_tensors_agree_on_their_number():
    x = torch.arange(6.0).view(3, 2)
    assert two_samples((x, x[:, 0]))[1].tolist() == [0, 2]
    assert two_samples({"x": x[:1]})["x"].tolist() == [[0, 1], [0, 1]]
    for whole in (x[:2], (x, x[:1]), {"x": torch.tensor(3.0)}, "words", (x, torch.ones(2))):
        assert two_samples(whole) is whole


def fail_within(net, training):
    with untouched(net, training):
        assert [m.training for m in net.modules()] == [training] * 4
        net(torch.randn(4, 2) + 3)
        torch.rand(1), np.random.rand(), random.random()
        raise KeyError


@pytest.mark.parametrize("training", [True, False])
def test_modes_buffers_and_chance_come_back_even_after_an_error(training):
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2))
    net[1].eval()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with pytest.raises(KeyError):
        fail_within(net, training)
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert net[0].running_mean.tolist() == [0, 0]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_norms_over_ranks_do_not_wait_for_the_others():
    net = nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2))
    with untouched(net, training=True):
        assert [m.training for m in net] == [True, False]
    assert [m.training for m in net] == [True, True]


class Config:
    use_cache = True


def test_decoders_keep_no_cache_meanwhile():
    net = nn.Linear(2, 2)
    net.config = Config()
    with untouched(net):
        assert net.config.use_cache is False
    assert net.config.use_cache is True


class Faulty(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError("by the model\nin two lines")


def test_what_a_model_raises_is_one_line_and_the_module_is_known():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Faulty()))
    running = RunningModules(net)
    with (
        running.watched(),
        pytest.raises(SteppeError, match="ZeroDivisionError: by the model") as error,
    ):
        call(net, torch.zeros(1, 2))
    assert "\n" not in str(error.value)
    assert running.innermost == "1.0"


def test_tensors_that_modules_keep():
    net = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2))
    net[0].mask = {"a": [torch.zeros(1)]}
    assert [name for name, _ in kept_tensors(net)] == ["0.mask"]
