"""Stretched and bent like rubber."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.filters import blur

_LARGE = 244.0  # the released code's number; 224 was meant, and the published images have 244


@corruption(
    "elastic_transform",
    small=tuple(
        (32 * a, 32 * s, 32 * m)
        for a, s, m in (
            (0.0, 0.0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        )
    ),
    large=tuple(
        (_LARGE * a, _LARGE * s, _LARGE * m)
        for a, s, m in (
            (2, 0.7, 0.1),
            (2, 0.08, 0.2),
            (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.02),
            (0.12, 0.01, 0.02),
        )
    ),
)
def elastic_transform(x: Tensor, c: tuple[float, float, float], draws: Draws) -> Tensor:
    """An affine map that moves three points by up to ``most``, then ``strength`` times a blurred
    field of uniform displacements.
    """
    strength, sigma, most = c
    h, w = x.shape[2:]
    moves = draws.uniform(3, 2, low=-most, high=most)
    warped = _sample(x, *_affine(h, w, moves), mirrored=True)
    if strength == 0.0:
        return warped
    fields = draws.uniform(2, h, w, low=-1.0, high=1.0)
    fields = blur(fields, sigma, mode="reflect", truncate=3.0).mul_(strength)
    rows, columns = _grid(h, w, x.device)
    return _sample(warped, rows + fields[:, 1], columns + fields[:, 0], mirrored=False)


def _grid(h: int, w: int, device: Any) -> tuple[Tensor, Tensor]:
    y = torch.arange(h, device=device, dtype=torch.float32)[:, None].expand(h, w)
    return y, torch.arange(w, device=device, dtype=torch.float32).expand(h, w)


def _affine(h: int, w: int, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from when three points have moved so much: y and x ``[n, h, w]``."""
    # as the released code has it: points are (x, y), their middle is taken from (h, w)
    middle = torch.tensor([h // 2, w // 2], dtype=torch.float64)
    size = min(h, w) // 3
    corners = torch.tensor([[size, size], [size, -size], [-size, -size]], dtype=torch.float64)
    before = (middle + corners).expand(len(moves), 3, 2)
    after = before + moves.double().cpu()
    ones = torch.ones(len(moves), 3, 1, dtype=torch.float64)
    # [x, y, 1] of the new place times this gives the old place
    back = torch.linalg.solve(torch.cat([after, ones], 2), before).float().to(moves.device)
    y, x = _grid(h, w, moves.device)
    from_x, from_y = (
        x * back[:, 0, i, None, None] + y * back[:, 1, i, None, None] + back[:, 2, i, None, None]
        for i in (0, 1)
    )
    return from_y, from_x


def _sample(images: Tensor, y: Tensor, x: Tensor, *, mirrored: bool) -> Tensor:
    """Linear between pixels at rows y and columns x ``[n, h, w]``; reflected beyond the edges.

    Args:
        images: ``[n, c, h, w]``.
        y: rows.
        x: columns.
        mirrored: about the middle of the edge pixels; else about their outer side.
    """
    h, w = images.shape[2:]
    if mirrored:
        points = torch.stack([2.0 * x / max(w - 1, 1) - 1.0, 2.0 * y / max(h - 1, 1) - 1.0], -1)
    else:
        points = torch.stack([(2.0 * x + 1.0) / w - 1.0, (2.0 * y + 1.0) / h - 1.0], -1)
    return F.grid_sample(
        images, points, mode="bilinear", padding_mode="reflection", align_corners=mirrored
    )
