"""Milliseconds of a forward pass of several networks, here, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def latencies_ms(models: Sequence[nn.Module], example: Tensor, repeats: int = 15) -> list[float]:
    """Median milliseconds of a forward pass in each model, in eval mode, here, taking turns."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    milliseconds = turns_ms(
        [partial(model, example) for model in models], repeats, cuda=example.is_cuda
    )
    for model, mode in zip(models, modes, strict=True):
        model.train(mode)
    return milliseconds


def turns_ms(
    works: Sequence[Callable[[], Any]], repeats: int = 15, cuda: bool = False
) -> list[float]:
    """Median milliseconds of each piece of work, taking turns after three rounds of warm-up.

    Args:
        works: what is timed.
        repeats: rounds that count.
        cuda: wait for the GPU after each.
    """
    times: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 3):
        for work, own in zip(works, times, strict=True):
            begun = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            if repeat >= 3:
                own.append(1000 * (time.perf_counter() - begun))
    return [statistics.median(own) for own in times]
