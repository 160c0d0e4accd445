"""Zeros and their signs through a training."""

from __future__ import annotations

import torch
from torch import nn

from steppe.engine.kept_zeros import KeptZeros


def test_zeros_stay_to_the_last_bit_and_the_rest_moves() -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[0] = 0.0  # a row for padding is no layer, and stays too
        model[1].weight[0] = -0.0
        model[1].bias.zero_()  # a vector is trained whatever it holds
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    kept = KeptZeros(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    kept.hold(model, [optimizer])
    for _ in range(3):
        model(torch.arange(4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    kept.settle(model)
    for name, old in before.items():
        new, gone = model.get_parameter(name).detach(), old == 0
        if old.ndim > 1:
            assert bool((new[gone] == 0).all())
            assert torch.equal(torch.signbit(new[gone]), torch.signbit(old[gone])), name
        assert not torch.equal(new, old)
