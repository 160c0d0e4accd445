"""Clouds: the diamond-square fractal, for many images at once."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.draws import Draws


def plasma(draws: Draws, side: int, decay: float) -> Tensor:
    """Height maps by the diamond-square algorithm, wrapped around, scaled to [0, 1].

    Squares and diamonds take the mean of their four corners plus wibble^2 u, u uniform in
    [-1, 1); wibble begins at 100 and shrinks by ``decay`` at each halving. (The square is that
    of the released code, which multiplies by the wibble twice.)

    Args:
        draws: one stream for each map.
        side: a power of two.
        decay: the larger, the smoother.

    Returns:
        ``[images, side, side]``, each with minimum 0 and maximum 1.

    Example:
        >>> tuple(plasma(Draws(0, "fog", range(2)), 8, 2.0).shape)
        (2, 8, 8)
    """
    assert side & (side - 1) == 0, side
    if side == 1:
        return torch.zeros_like(draws.uniform(1, 1))
    random = draws.uniform(side * side - 1, low=-1.0, high=1.0)
    heights = torch.zeros(len(random), side, side, device=random.device)
    used, wibble, step = 0, 100.0, side

    def around(total: Tensor) -> Tensor:
        nonlocal used
        count = total[0].numel()
        new = random[:, used : used + count].view_as(total)
        used += count
        return total / 4 + wibble**2 * new

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        below = corners + corners.roll(-1, 1)
        heights[:, half::step, half::step] = around(below + below.roll(-1, 2))
        middles = heights[:, half::step, half::step]
        beside = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        heights[:, ::step, half::step] = around(beside)
        beside = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        heights[:, half::step, ::step] = around(beside)
        step, wibble = half, wibble / decay
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True).clamp_min(1e-30)
