"""Fog of uneven thickness."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.plasma import plasma


@corruption(
    "fog",
    small=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    large=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
def fog(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    """(x + a p) m / (m + a), p a plasma fractal in [0, 1], m the image's largest value."""
    thickness, decay = c
    h, w = x.shape[2:]
    most = x.amax((1, 2, 3), keepdim=True)
    side = 1 << (max(h, w) - 1).bit_length()
    clouds = plasma(draws, side, decay)[:, None, :h, :w]
    return (x + thickness * clouds).mul_(most / (most + thickness))
