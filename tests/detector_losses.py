"""A detector that is trained for a few steps on the same images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from steppe.vision.detection.reading import Reading

Optimizer = Callable[..., torch.optim.Optimizer]


def losses(
    model: nn.Module,
    reading: Reading,
    x: Tensor,
    targets: Tensor,
    steps: int,
    optimizer: Optimizer = torch.optim.Adam,
    **options: float,
) -> list[float]:
    """Of each step, before it.

    Args:
        model: in training mode.
        reading: what its outputs mean.
        x: images, the same in every step.
        targets: their objects.
        steps: how many.
        optimizer, options: with a learning rate of 0.01 if nothing else is said.
    """
    made = optimizer(model.parameters(), **({"lr": 0.01} | options))
    each = []
    for _ in range(steps):
        loss = reading.loss(model(x), targets)
        made.zero_grad()
        loss.backward()
        made.step()
        each.append(float(loss.detach()))
    return each
