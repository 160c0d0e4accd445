"""Linear filters of images: matrices for what is separable, few shifts for what is sparse."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

_SPARSE = 32  # up to so many nonzero entries a kernel is a sum of shifted images
_DENSE = 48  # up to this side a filter of whole images is one matrix over all pixels


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows x columns' for each channel of each image, as two matrix products.

    Args:
        x: ``[..., h, w]``.
        rows: ``[h', h]``.
        columns: ``[w', w]``.

    Returns:
        ``[..., h', w']``.
    """
    return torch.matmul(torch.matmul(x, columns.t()).mT.contiguous(), rows.t()).mT


@lru_cache(maxsize=64)
def _gaussian(size: int, sigma: float, mode: str, truncate: float) -> Tensor:
    eye = np.eye(size)
    matrix = ndimage.gaussian_filter1d(eye, sigma, axis=0, mode=mode, truncate=truncate)
    return torch.from_numpy(matrix).float()


def blur(x: Tensor, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Tensor:
    """Convolution with a Gaussian, as scipy.ndimage.gaussian_filter does it.

    Args:
        x: ``[..., h, w]``; not changed.
        sigma: in pixels; up to 1 / (2 truncate) nothing happens.
        mode: what lies beyond the edge, scipy's name.
        truncate: radius of the kernel in sigmas.
    """
    if int(truncate * sigma + 0.5) == 0:
        return x.clone()
    h, w = x.shape[-2:]
    rows, columns = (_gaussian(n, float(sigma), mode, truncate).to(x.device) for n in (h, w))
    return separable(x, rows, columns).contiguous()


@lru_cache(maxsize=64)
def _zoom(size: int, factor: float) -> Tensor:
    crop = int(np.ceil(size / factor))
    top = (size - crop) // 2
    grown = ndimage.zoom(np.eye(size)[top : top + crop], (factor, 1), order=1)
    trim = (len(grown) - size) // 2
    return torch.from_numpy(grown[trim : trim + size]).float()


@lru_cache(maxsize=16)
def _zooms(h: int, w: int, factors: tuple[float, ...]) -> Tensor:
    total = torch.zeros(h * w, h * w)
    for factor in factors:
        total += torch.kron(_zoom(h, factor), _zoom(w, factor))
    return total


def zoomed(x: Tensor, factors: tuple[float, ...]) -> Tensor:
    """The sum of linear zooms into the middle, each of the image's own size.

    Args:
        x: ``[..., h, w]``.
        factors: of the zooms, 1 or more.
    """
    h, w = x.shape[-2:]
    if len(factors) > 1 and max(h, w) <= _DENSE:
        # a zoom costs 2 (h + w) operations a pixel, this h w for all of them, but as one product
        return torch.matmul(x.flatten(-2), _zooms(h, w, factors).to(x.device).t()).view_as(x)
    total = torch.zeros_like(x)
    for factor in factors:
        total += separable(x, _zoom(h, factor).to(x.device), _zoom(w, factor).to(x.device))
    return total


@lru_cache(maxsize=16)
def disk(radius: float, alias: float) -> Tensor:
    """A disk whose rim is smoothed, without its empty margin, ``[k, k]``, k odd.

    Args:
        radius: in pixels.
        alias: standard deviation of the Gaussian over the rim, 3 x 3 or (radius > 8) 5 x 5.
    """
    size, half = (8, 1) if radius <= 8 else (int(radius), 2)
    axis = np.arange(-size, size + 1)
    kernel = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(float)
    kernel /= kernel.sum()
    line = np.exp(-(np.arange(-half, half + 1) ** 2) / (2.0 * alias**2))
    for side in (0, 1):
        kernel = ndimage.correlate1d(kernel, line / line.sum(), axis=side, mode="mirror")
    filled = np.flatnonzero(kernel.max(0) > 1e-12)
    middle = len(kernel) // 2
    extent = max(middle - filled[0], filled[-1] - middle)
    inside = slice(middle - extent, middle + extent + 1)
    return torch.from_numpy(kernel[inside, inside]).float()


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel with one kernel, mirrored at the edges (the edge itself not repeated).

    Args:
        x: ``[n, c, h, w]``.
        kernel: ``[k, k]``, k odd.
    """
    n, channels, h, w = x.shape
    radius = len(kernel) // 2
    padded = F.pad(x, (radius,) * 4, mode="reflect")
    entries = kernel.nonzero().tolist()
    if len(entries) > _SPARSE:
        kernel = kernel.to(x.device)[None, None]
        return F.conv2d(padded.view(n * channels, 1, *padded.shape[2:]), kernel).view_as(x)
    total = torch.zeros_like(x)
    for i, j in entries:
        total.add_(padded[..., i : i + h, j : j + w], alpha=float(kernel[i, j]))
    return total


def motion(x: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Half a Gaussian along a line from each pixel; edges repeated.

    Tap i of ``2 radius + 1`` has weight exp(-i^2 / 2 sigma^2), normalised, and looks
    ceil(i cos - 1/2) columns and ceil(i sin - 1/2) rows away: ImageMagick's motion blur.
    Images whose taps fall on the same pixels are done together.

    Args:
        x: ``[n, c, h, w]``.
        radius: in pixels.
        sigma: in pixels.
        degrees: the angle of each image, ``[n]``.
    """
    taps = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-(taps**2) / (2.0 * sigma**2))
    weights /= weights.sum()
    taps = taps[weights > 1e-7]
    angles = np.deg2rad(degrees.double().cpu().numpy())[:, None]
    down = np.ceil(taps * np.sin(angles) - 0.5).astype(np.int64)
    right = np.ceil(taps * np.cos(angles) - 0.5).astype(np.int64)
    shifts, which = np.unique(np.concatenate([down, right], 1), axis=0, return_inverse=True)
    order = torch.from_numpy(np.argsort(which.ravel(), kind="stable")).to(x.device)
    counts = np.bincount(which.ravel(), minlength=len(shifts))
    h, w = x.shape[2:]
    low, high = np.minimum(shifts.min(0), 0), np.maximum(shifts.max(0), 0)
    n = len(taps)
    up, left = -int(low[:n].min()), -int(low[n:].min())
    margins = (left, int(high[n:].max()), up, int(high[:n].max()))
    padded = F.pad(x[order], margins, mode="replicate")
    blurred = torch.zeros_like(x)
    start = 0
    for shift, count in zip(shifts.tolist(), counts.tolist(), strict=True):
        group, into = padded[start : start + count], blurred[start : start + count]
        for i in range(n):
            top, first = up + shift[i], left + shift[n + i]
            shifted = group[:, :, top : top + h, first : first + w]
            into.add_(shifted, alpha=float(weights[i]))
        start += count
    result = torch.empty_like(x)
    result[order] = blurred
    return result


@lru_cache(maxsize=64)
def _box(size: int, to: int) -> Tensor:
    scale = size / to
    radius = 0.5 * max(scale, 1.0)
    matrix = torch.zeros(to, size, dtype=torch.float64)
    for i in range(to):
        middle = (i + 0.5) * scale
        low = max(int(middle - radius + 0.5), 0)
        high = min(int(middle + radius + 0.5), size)
        inside = [j for j in range(low, high) if -0.5 < (j - middle + 0.5) / (2 * radius) <= 0.5]
        matrix[i, inside] = 1.0 / len(inside)
    return matrix.float()


def box_resize(x: Tensor, h: int, w: int) -> Tensor:
    """Pillow's resize with the box filter: columns, then rows, each cut to eight bits.

    Args:
        x: ``[..., h0, w0]``, values of eight bits.
        h: new height.
        w: new width.
    """
    across = torch.matmul(x, _box(x.shape[-1], w).to(x.device).t())
    across = across.add_(0.5).floor_().mT.contiguous()
    down = torch.matmul(across, _box(x.shape[-2], h).to(x.device).t())
    return down.add_(0.5).floor_().mT.contiguous()
