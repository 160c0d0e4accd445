"""Milliseconds of a forward pass of several networks, here, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def latencies_ms(models: Sequence[nn.Module], example: Tensor, repeats: int = 15) -> list[float]:
    """Median milliseconds of a forward pass of one image in each model, here, taking turns."""
    times: list[list[float]] = [[] for _ in models]
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    for repeat in range(repeats + 3):
        for model, own in zip(models, times, strict=True):
            begun = time.perf_counter()
            model(example)
            if example.is_cuda:
                torch.cuda.synchronize()
            if repeat >= 3:
                own.append(1000 * (time.perf_counter() - begun))
    for model, mode in zip(models, modes, strict=True):
        model.train(mode)
    return [statistics.median(own) for own in times]
