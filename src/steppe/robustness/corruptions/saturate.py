"""Paler, or more colourful."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws


@corruption(
    "saturate",
    small=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    large=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    extra=True,
)
def saturate(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    """HSV's saturation s becomes s a + b, within [0, 1].

    With value v a channel is v (1 - s g), where g depends on the hue only. Grey has no hue; it
    counts as red, as in the usual conversion.
    """
    a, b = c
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    before = chroma / value.clamp_min(1e-12)
    after = (before * a + b).clamp_(0.0, 1.0)
    coloured = value - (value - x) * (after / before.clamp_min(1e-12))
    red = torch.cat([value, (value * (1.0 - after)).expand(-1, 2, -1, -1)], 1)
    return torch.where(chroma > 0.0, coloured, red)
