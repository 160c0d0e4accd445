"""Symmetric label noise: the wrong label is any other class, all equally likely."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.label_noise import LABEL_NOISE


@LABEL_NOISE.register("symmetric")
def symmetric(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """(y + 1 + u) mod classes, u uniform in 0 .. classes - 2."""
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    return (labels + shift) % classes
