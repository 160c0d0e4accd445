"""JPEG compression of tensors: encode and decode without a file."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# ITU T.81, annex K: tables of quality 50 for brightness and colour, row by row
_BRIGHTNESS = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_COLOUR = (
    """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99"""
    + " 99" * 32
)


@lru_cache(maxsize=32)
def _steps(table: str, quality: int) -> Tensor:
    """Quantisation steps ``[64]``, scaled as the Independent JPEG Group does."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor([int(v) for v in table.split()])
    return ((base * scale + 50) // 100).clamp_(1, 255).float()


@lru_cache(maxsize=1)
def _cosines() -> tuple[Tensor, Tensor]:
    """sqrt(8) times the orthonormal DCT of the rows and of the columns of 8 x 8 blocks.

    As matrices ``[64, 64]`` that act on flattened blocks.
    """
    k = torch.arange(8, dtype=torch.float64)
    line = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) * math.sqrt(2)
    line[0] /= math.sqrt(2)
    eye = torch.eye(8, dtype=torch.float64)
    return torch.kron(eye, line).float(), torch.kron(line, eye).float()


def _rounded(x: Tensor) -> Tensor:
    return x.add_(0.5).floor_()


def _coded(plane: Tensor, steps: Tensor) -> Tensor:
    """A plane ``[n, h, w]`` of eight bits after quantisation of its blocks; h, w multiples of 8.

    libjpeg computes in whole numbers, two bits more between the two passes. Its rounding decides
    where a coefficient lies between two steps, so it is followed here.
    """
    n, h, w = plane.shape
    blocks = (plane - 128.0).view(n, h // 8, 8, w // 8, 8).transpose(2, 3).reshape(-1, 64)
    rows, columns = (c.to(plane.device) for c in _cosines())
    x = _rounded((blocks @ rows.t()).mul_(4.0))
    x = _rounded((x @ columns.t()).div_(4.0))  # 8 times the coefficients
    x = torch.copysign(((x.abs() + 4.0 * steps) / (8.0 * steps)).floor_(), x).mul_(steps)
    x = _rounded((x @ columns).mul_(4.0))
    x = _rounded((x @ rows).div_(32.0)).add_(128.0).clamp_(0.0, 255.0)
    return x.view(n, h // 8, w // 8, 8, 8).transpose(2, 3).reshape(n, h, w)


def _halved(plane: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; ties are rounded down and up in turn, as libjpeg does."""
    total = F.avg_pool2d(plane[:, None], 2, divisor_override=1)[:, 0]
    bias = 1.0 + (torch.arange(total.shape[-1], device=plane.device) % 2)
    return (total + bias).div_(4.0).floor_()


def _doubled(plane: Tensor) -> Tensor:
    """Each pixel becomes 2 x 2, 9/16 its own and the rest its nearest neighbours'."""
    n, h, w = plane.shape
    padded = F.pad(plane[:, None], (0, 0, 1, 1), mode="replicate")[:, 0]
    rows = torch.stack([3 * plane + padded[:, :-2], 3 * plane + padded[:, 2:]], 2)
    rows = rows.view(n, 2 * h, w)
    padded = F.pad(rows[:, None], (1, 1, 0, 0), mode="replicate")[:, 0]
    left = (3 * rows + padded[..., :-2]).add_(8.0)
    right = (3 * rows + padded[..., 2:]).add_(7.0)
    return torch.stack([left, right], 3).div_(16.0).floor_().view(n, 2 * h, 2 * w)


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Encode and decode as libjpeg does: baseline, colours at half resolution in both directions.

    Args:
        x: RGB images in [0, 1], ``[n, 3, h, w]``; cut to eight bits first.
        quality: 1 to 100, the Independent JPEG Group's scale.

    Returns:
        The decoded images, ``[n, 3, h, w]``, values of eight bits over 255.

    Example:
        >>> x = torch.full((1, 3, 16, 16), 128 / 255)
        >>> torch.equal(jpeg(x, 50), x)
        True
    """
    h, w = x.shape[2:]
    eight = (x * 255.0).round_()
    eight = F.pad(eight, (0, -w % 16, 0, -h % 16), mode="replicate")
    r, g, b = eight.unbind(1)
    y = (0.299 * r + 0.587 * g + 0.114 * b).round_()
    cb = (-0.168735892 * r - 0.331264108 * g + 0.5 * b + 128.0).round_()
    cr = (0.5 * r - 0.418687589 * g - 0.081312411 * b + 128.0).round_()
    y = _coded(y, _steps(_BRIGHTNESS, quality).to(x.device))
    steps = _steps(_COLOUR, quality).to(x.device)
    cb, cr = (_doubled(_coded(_halved(plane), steps)).sub_(128.0) for plane in (cb, cr))
    green = y - 0.344136286 * cb - 0.714136286 * cr
    rgb = torch.stack([y + 1.402 * cr, green, y + 1.772 * cb], 1)[..., :h, :w]
    return rgb.round_().clamp_(0.0, 255.0).div_(255.0)
