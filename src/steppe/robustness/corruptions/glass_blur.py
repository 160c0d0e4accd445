"""Seen through frosted glass: pixels take the colour of near ones."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.filters import blur


@corruption(
    "glass_blur",
    small=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    large=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
def glass_blur(x: Tensor, c: tuple[float, int, int], draws: Draws) -> Tensor:
    """Blurred, cut to eight bits, shuffled from the last pixel to the first, blurred again.

    In the released code, and so in the published images, a pixel *takes* the value of the one
    that it is meant to be swapped with and that one keeps it: NumPy assigns through views. That
    is what is done here.
    """
    sigma, radius, rounds = c
    n, channels, h, w = x.shape
    x = blur(x, sigma).clamp_(0.0, 1.0).mul_(255.0).add_(1e-3).floor_()
    # which pixel stands where, pixels first so that one pixel of all images is contiguous
    source = torch.arange(h * w, device=x.device)[:, None].repeat(1, n)
    size = (h - 2 * radius) * (w - 2 * radius)
    moves = draws.integers(rounds * size, 2, low=-radius, high=radius)
    steps = (moves[..., 1] * w + moves[..., 0]).t().contiguous()
    step = 0
    for _ in range(rounds):
        for row in range(h - radius, radius, -1):
            for column in range(w - radius, radius, -1):
                here = row * w + column
                source[here] = source.gather(0, (steps[step] + here)[None])[0]
                step += 1
    index = source.t()[:, None].expand(n, channels, h * w)
    shuffled = x.flatten(2).gather(2, index).view(n, channels, h, w)
    return blur(shuffled.div_(255.0), sigma)
