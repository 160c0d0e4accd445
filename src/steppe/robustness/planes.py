"""Edges, distances and histograms of grey images, many at once, as OpenCV computes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_NEXT, _DIAGONAL, _KNIGHT = 1.0, 1.4, 2.1969  # lengths of steps, for 5 x 5 masks
_FAR = 8192.0
_TAN = 13573.0 / 32768.0  # of 22.5 degrees, in OpenCV's fixed point


def box_mean(x: Tensor) -> Tensor:
    """Means of 3 x 3 pixels, mirrored at the edges; ``[n, h, w]``."""
    padded = F.pad(x[:, None], (1, 1, 1, 1), mode="reflect")
    return F.avg_pool2d(padded, 3, stride=1)[:, 0]


def edges(x: Tensor, low: float, high: float) -> Tensor:
    """Canny's edges: 3 x 3 Sobel, |dx| + |dy|, thinned, then those connected to a strong one.

    Args:
        x: ``[n, h, w]``, values of eight bits.
        low: gradients above it may be edges.
        high: gradients above it are.

    Returns:
        Booleans ``[n, h, w]``.
    """
    h, w = x.shape[1:]
    padded = F.pad(x[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    dx = rows[..., 2:] - rows[..., :-2]
    columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    dy = columns[:, 2:] - columns[:, :-2]
    size = dx.abs() + dy.abs()
    around = F.pad(size, (1, 1, 1, 1))

    def at(down: int, right: int) -> Tensor:
        return around[:, 1 + down : 1 + down + h, 1 + right : 1 + right + w]

    across, along = dx.abs(), dy.abs()
    flat = along < across * _TAN
    steep = along > across * (_TAN + 2.0)
    falling = torch.where((dx < 0) ^ (dy < 0), at(-1, 1), at(-1, -1))
    rising = torch.where((dx < 0) ^ (dy < 0), at(1, -1), at(1, 1))
    thin = torch.where(
        flat,
        (size > at(0, -1)) & (size >= at(0, 1)),
        torch.where(
            steep,
            (size > at(-1, 0)) & (size >= at(1, 0)),
            (size > falling) & (size > rising),
        ),
    )
    maybe = thin & (size > low)
    edge = maybe & (size > high)
    while True:  # at most as often as the longest chain has pixels
        grown = F.max_pool2d(edge[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
        grown &= maybe
        if torch.equal(grown, edge):
            return edge
        edge = grown


def chamfer(zero: Tensor) -> Tensor:
    """Distance to the nearest True pixel, by steps of 1, 1.4 and (a knight's) 2.1969.

    Two sweeps over the rows, down and up; within a row the nearest to the left is a running
    minimum. Far away (8192) where an image has none.

    Args:
        zero: booleans ``[n, h, w]``.

    Returns:
        Distances ``[n, h, w]``.
    """
    distance = torch.where(zero, 0.0, _FAR)
    _sweep(distance)
    turned = distance.flip(1, 2)
    _sweep(turned)
    return turned.flip(1, 2)


def _sweep(distance: Tensor) -> None:
    """From the first row to the last, in each from left to right; in place."""
    n, h, w = distance.shape
    ramp = torch.arange(w, device=distance.device, dtype=distance.dtype) * _NEXT
    beyond = distance.new_full((n, w + 4), _FAR)
    above_1, above_2 = beyond.clone(), beyond.clone()  # the two rows above, padded by two
    for row in range(h):
        best = distance[:, row]
        for above, right, length in (
            (above_2, 1, _KNIGHT),
            (above_2, 3, _KNIGHT),
            (above_1, 0, _KNIGHT),
            (above_1, 1, _DIAGONAL),
            (above_1, 2, _NEXT),
            (above_1, 3, _DIAGONAL),
            (above_1, 4, _KNIGHT),
        ):
            best = torch.minimum(best, above[:, right : right + w] + length)
        best = torch.cummin(best - ramp, 1).values + ramp
        distance[:, row] = best
        above_1, above_2 = above_2, above_1
        above_1[:, 2:-2] = best


def equalised(x: Tensor) -> Tensor:
    """Histogram equalisation of each image.

    Args:
        x: ``[n, h, w]``, values of eight bits.
    """
    n, h, w = x.shape
    values = x.view(n, -1).long()
    offsets = torch.arange(n, device=x.device)[:, None] * 256
    counts = torch.bincount((values + offsets).view(-1), minlength=n * 256).view(n, 256)
    below = counts.cumsum(1)
    least = values.amin(1, keepdim=True)
    first = counts.gather(1, least)
    above = (h * w - first).float()  # pixels brighter than the darkest value
    table = ((below - first).float() * (255.0 / above.clamp_min(1.0))).round_().clamp_(0.0, 255.0)
    table = torch.where(above > 0, table, least.float())
    return table.gather(1, values).view(n, h, w)
