"""Brighter."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws


@corruption("brightness", small=(0.05, 0.1, 0.15, 0.2, 0.3), large=(0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """HSV's value v grows to min(v + amount, 1).

    Hue and saturation stay, so that all channels grow by the same factor; black becomes grey.
    """
    value = x.amax(1, keepdim=True)
    grown = (value + amount).clamp_(max=1.0)
    return torch.where(value > 0.0, x * (grown / value), grown)
