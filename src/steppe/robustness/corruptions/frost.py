"""Frost on the window."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.plasma import plasma

_PANES = 5


@lru_cache(maxsize=4)
def panes(side: int) -> Tensor:
    """Pictures of frost, ``[5, 3, side, side]`` in [0, 1], always the same.

    The published ones are photographs that may not be redistributed. These are computed: ridges of
    two plasma fractals, bright and bluish where ice is thick, with their mean and deviation.
    """
    draws = Draws(0, "frost", range(_PANES))
    rough, fine = plasma(draws, side, 1.8), plasma(draws, side, 1.35)
    crystals = (1.0 - (2.0 * rough - 1.0).abs()).pow_(3) + (1.0 - (2.0 * fine - 1.0).abs()).pow_(6)
    crystals -= crystals.mean((1, 2), keepdim=True)
    crystals /= crystals.std((1, 2), keepdim=True)
    colour = torch.tensor([0.42, 0.49, 0.55]).view(1, 3, 1, 1)
    return (crystals[:, None] * 0.19 + colour).clamp_(0.0, 1.0)


@corruption(
    "frost",
    small=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    large=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
)
def frost(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    """a x + b ice; the ice is a random window of one of five pictures, see `panes`."""
    h, w = x.shape[2:]
    side = 4 << (max(h, w) - 1).bit_length()
    pictures = panes(side).to(x.device)
    which = draws.integers(low=0, high=_PANES)
    top = draws.integers(low=0, high=side - h)
    left = draws.integers(low=0, high=side - w)
    rows = top[:, None, None] + torch.arange(h, device=x.device)[:, None]
    columns = left[:, None, None] + torch.arange(w, device=x.device)
    ice = pictures.permute(0, 2, 3, 1)[which[:, None, None], rows, columns].permute(0, 3, 1, 2)
    return c[0] * x + c[1] * ice
