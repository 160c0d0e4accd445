"""Networks are timed side by side and left as they were."""

from __future__ import annotations

import torch
from torch import nn

from steppe.engine.model_latency import latencies_ms


def test_every_network_has_its_time_and_its_mode() -> None:
    small, large = (
        nn.Linear(2, 2),
        nn.Sequential(nn.Linear(2, 500), nn.Dropout(), nn.Linear(500, 2)),
    )
    large.eval()
    times = latencies_ms([small, large], torch.zeros(1, 2), repeats=3)
    assert len(times) == 2
    assert all(t > 0 for t in times)
    assert small.training
    assert not large.training
