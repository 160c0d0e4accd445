"""Milliseconds of a forward pass of two networks, here, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.speed import Speed

Clock = Callable[[], float]
"""Seconds since any moment."""

TURNS, LEAST_TURNS, SECONDS = 25, 9, 20.0
_WARM = 3


@torch.no_grad()
def compare(
    dense: nn.Module,
    other: nn.Module,
    example: Tensor,
    reason: str = "",
    clock: Clock = time.perf_counter,
) -> Speed:
    """How many times as fast as the dense network another one is here, in eval mode.

    Args:
        dense: the network before pruning.
        other: the one after.
        example: what both are called with.
        reason: why the other may be faster, such as channels that are gone; "" if there is none.
        clock: what tells the time.
    """
    modes = [model.training for model in (dense, other)]
    for model in (dense, other):
        model.eval()
    works = [partial(model, example) for model in (dense, other)]
    first, second = in_turns(works, clock=clock, cuda=example.is_cuda)
    for model, mode in zip((dense, other), modes, strict=True):
        model.train(mode)
    return Speed.of(list(zip(first, second, strict=True)), reason)


def in_turns(
    works: Sequence[Callable[[], Any]],
    turns: int = TURNS,
    *,
    clock: Clock = time.perf_counter,
    cuda: bool = False,
) -> list[list[float]]:
    """Milliseconds of each piece of work, one of each in every turn, after three turns of warm-up.

    Every other turn goes the other way round, so that a machine that gets slower favours none.
    After 20 seconds no turn is begun, but nine are done.

    Args:
        works: what is timed.
        turns: at most.
        clock: what tells the time.
        cuda: wait for the GPU before and after each.

    Returns:
        A list for each piece of work; equal places are of one turn.
    """
    times: list[list[float]] = [[] for _ in works]
    start = clock()
    for turn in range(turns + _WARM):
        if turn >= LEAST_TURNS + _WARM and clock() - start > SECONDS:
            break
        both = list(zip(works, times, strict=True))
        for work, own in both if turn % 2 else reversed(both):
            if cuda:
                torch.cuda.synchronize()
            begun = clock()
            work()
            if cuda:
                torch.cuda.synchronize()
            if turn >= _WARM:
                own.append(1000 * (clock() - begun))
    return times
