"""Copies share memory only where they are told to."""

from __future__ import annotations

import torch
from torch import nn

from steppe.removal.copies import copy_of


def network():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LSTM(4, 2))
    net[0].computed = net[0].weight * 2  # a tensor with a history, which torch does not copy
    net[0].bias.requires_grad_(False)
    return net


def test_weights_are_shared_and_modules_and_buffers_are_not():
    net = network()
    copy = copy_of(net, changed={"0.bias": torch.ones(4)})
    assert copy[0].weight is net[0].weight
    assert copy[2]._flat_weights[0] is net[2].weight_ih_l0
    assert copy[0].bias.tolist() == [1, 1, 1, 1]
    assert not copy[0].bias.requires_grad
    copy[1].running_mean.add_(1)
    assert net[1].running_mean.tolist() == [0, 0, 0, 0]
    assert torch.equal(copy[0].computed, net[0].computed)


def test_nothing_is_shared_where_that_is_asked_for():
    net = network()
    copy = copy_of(net, share=False)
    for a, b in zip(copy.parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_another_dtype_leaves_the_model_as_it_is():
    net = network()
    net.register_parameter("waves", nn.Parameter(torch.ones(2, dtype=torch.complex64)))
    copy = copy_of(net, torch.float64)
    assert copy.waves.dtype == torch.complex128
    assert {p.dtype for p in copy[0].parameters()} == {torch.float64}
    assert {p.dtype for p in net[0].parameters()} == {torch.float32}
