"""The published solvers as their authors' code runs them, written from their rules.

For `bench_solvers.py --peers`: the same layer, the same clock, the same run. Plain on purpose: the
order of operations is theirs, nothing is made faster or slower.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sparsegpt(weight: Tensor, gram: Tensor, sparsity: float, zeros: int, group: int) -> Tensor:
    """SparseGPT: Cholesky, inverse, Cholesky; blocks of 128; ``zeros`` of each ``group``."""
    w, h = weight.clone(), gram.clone()
    h.diagonal().add_(0.01 * h.diagonal().mean())
    h = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    for start in range(0, w.shape[1], 128):
        stop = min(start + 128, w.shape[1])
        block, factor = w[:, start:stop].clone(), h[start:stop, start:stop]
        pruned, errors = torch.zeros_like(block), torch.zeros_like(block)
        gone = torch.zeros_like(block, dtype=torch.bool)
        if not group:
            score = block**2 / factor.diagonal() ** 2
            gone = score <= score.flatten().sort()[0][int(score.numel() * sparsity)]
        for i in range(stop - start):
            if group and i % group == 0:
                score = block[:, i : i + group] ** 2 / factor.diagonal()[i : i + group] ** 2
                gone.scatter_(1, i + score.topk(zeros, dim=1, largest=False)[1], True)
            q = block[:, i].masked_fill(gone[:, i], 0.0)
            error = (block[:, i] - q) / factor[i, i]
            block[:, i:] -= error[:, None] @ factor[i, i:][None]
            pruned[:, i], errors[:, i] = q, error
        w[:, start:stop] = pruned
        w[:, stop:] -= errors @ h[start:stop, stop:]
    return w


def _project(x: Tensor, keep: int, zeros: int, group: int) -> Tensor:
    """The largest entries of ``[columns, rows]``, or of each group along the columns."""
    if group:
        parts = x.t().reshape(-1, group)
        order = (parts**2).topk(zeros, dim=1, largest=False)[1]
        return parts.scatter(1, order, 0.0).reshape(x.shape[1], x.shape[0]).t().contiguous()
    flat = x.flatten().clone()  # flatten alone may be a view
    flat[(flat**2).topk(flat.numel() - keep, largest=False)[1]] = 0.0
    return flat.view(x.shape)


def _grown(rho: float, share: float, changed: int) -> float:
    """rho after three iterations in which this share of the kept weights changed sides."""
    if share > 0.1:
        return rho * 1.3
    if share > 0.005:
        return rho * 1.2
    return rho * 1.1 if changed else rho


def alps(weight: Tensor, gram: Tensor, sparsity: float, zeros: int, group: int) -> Tensor:
    """ALPS: eigendecomposition in float64, rho by the support's changes, 10 conjugate gradients."""
    h = gram.clone()
    h.diagonal().add_(0.01 * h.diagonal().mean())
    scale = h.diagonal().sqrt()
    h = h / scale / scale[:, None]
    start = (weight * scale).t().contiguous()
    keep, rho, grew, right = round((1 - sparsity) * start.numel()), 0.1, False, h @ start
    values, vectors = (x.float() for x in torch.linalg.eigh(h.double()))
    inverse = vectors @ ((1 / (values + rho))[:, None] * vectors.t())
    b, d, v = start, _project(start, keep, zeros, group), torch.zeros_like(start)
    support = d != 0
    for i in range(300):
        b = inverse @ (right - v + rho * d)
        d = _project(b + v / rho, keep, zeros, group)
        v = v + rho * (b - d)
        if (i + 1) % 3:
            continue
        changed = int(((d != 0) != support).sum())
        support = d != 0
        if changed == 0 and grew:
            break
        if changed <= 0.005 * keep and not grew:
            rho, b, d, v = rho / 5, start, start, torch.zeros_like(start)
        else:
            rho, grew = min(_grown(rho, changed / keep, changed), 1e6), True
        inverse = vectors @ ((1 / (values + rho))[:, None] * vectors.t())
        if i + 1 >= 30 and changed < 3e-4 * keep:
            break
    b = _project(b, keep, zeros, group)
    kept = b != 0
    residual = (right - h @ b) * kept
    direction, square = residual.clone(), (residual * residual).sum(0)
    for _ in range(10):
        image = (h @ direction) * kept
        step = square / (direction * image).sum(0).clamp_min(1e-30)
        b, residual = b + step * direction, residual - step * image
        last, square = square, (residual * residual).sum(0)
        direction = residual + square / last.clamp_min(1e-30) * direction
    return b.t() / scale
