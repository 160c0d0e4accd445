"""The best state by its held-out loss, and when a training is over."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steppe.engine.early_stopping import EarlyStopping


@pytest.mark.parametrize(
    ("weights", "best", "looks"),
    [
        ([5.0, 3.0, 2.0, 1.5], 3, 4),  # it only falls
        ([5.0, 3.0, 4.0, 4.0, 2.0], 1, 4),  # two looks without a gain
        ([5.0, 6.0, 4.0, 6.0, 6.0, 1.0], 2, 5),  # the count begins anew
        ([1.5, 3.0, 2.0, 1.0], 0, 3),  # never better than the start
        ([5.0, float("nan"), 4.0], 2, 3),
    ],
)
def test_the_lowest_loss_is_kept(weights: list[float], best: int, looks: int) -> None:
    model = nn.Linear(1, 1, bias=False)
    early = EarlyStopping([(torch.ones(2, 1), torch.ones(2, 1))] * 2, patience=2)
    for weight in weights:
        if early.over:
            break
        nn.init.constant_(model.weight, weight)
        early.look(model, lambda x, y: (model(x) - y).square().mean())
        assert model.training
        # a run that goes on knows the same
        again = EarlyStopping([(torch.ones(2, 1), torch.ones(2, 1))] * 2, patience=2)
        again.load_state_dict(early.state_dict())
        early = again
    assert (early.best_epoch, len(early.curve)) == (best, looks)
    early.restore(model)
    assert model.weight.item() == weights[best]
    assert early.curve[best] == pytest.approx((weights[best] - 1) ** 2)
