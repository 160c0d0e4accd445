"""Pair flip: the wrong label is the next class."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.label_noise import LABEL_NOISE


@LABEL_NOISE.register("pair_flip")
def pair_flip(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """(y + 1) mod classes."""
    return (labels + 1) % classes
