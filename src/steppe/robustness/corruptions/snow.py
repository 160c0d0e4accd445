"""Falling snow."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.filters import motion, zoomed


@corruption(
    "snow",
    small=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    large=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)
def snow(x: Tensor, c: tuple[float, ...], draws: Draws) -> Tensor:
    """Whitened, then flakes in two directions on top.

    Flakes are normal noise (mean, deviation), enlarged, cut off below a threshold and blurred by
    motion at an angle in [-135, -45) degrees; they fall once as they are and once turned by 180
    degrees. The scene keeps a share of itself, the rest is the brighter of it and of 1.5 grey
    + 0.5.
    """
    mean, deviation, zoom, threshold, radius, sigma, keep = c
    flakes = draws.normal(1, *x.shape[2:]).mul_(deviation).add_(mean)
    flakes = zoomed(flakes, (zoom,))
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp_(0.0, 1.0)
    flakes = flakes.mul_(255.0).floor_()
    angles = draws.uniform(low=-135.0, high=-45.0)
    flakes = motion(flakes, radius, sigma, angles).round_().div_(255.0)
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    grey = (x * weights).sum(1, keepdim=True)
    white = torch.maximum(x, grey * 1.5 + 0.5)
    return keep * x + (1.0 - keep) * white + flakes + flakes.rot90(2, (2, 3))
