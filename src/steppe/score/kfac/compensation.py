"""What the kept weights become, so that those that go are missed least."""

from __future__ import annotations

import torch
from torch import Tensor


def compensated(
    weight: Tensor, keep: Tensor, rows: Tensor, columns: Tensor, steps: int = 100
) -> Tensor:
    """All weights that go at once, made up for by all that stay: OBS of many weights, jointly.

    min over B, zero where ``keep`` is False, of tr((B - W)' G (B - W) A), by conjugate gradients
    whose preconditioner is the diagonal. For a single weight that is OBS's own update,
    -(w_ij / ([G^-1]_ii [A^-1]_jj)) G^-1 e_i e_j' A^-1; the sum of such updates is not the best of
    many, since each believes that the others stay.

    Each step costs rows^2 * columns + rows * columns^2, memory is a few copies of the weight.

    Args:
        weight: W ``[groups, rows, columns]``.
        keep: booleans of its shape. A weight that is zero and not kept costs nothing.
        rows: G ``[groups, rows, rows]``, positive definite.
        columns: A ``[groups, columns, columns]``, positive definite.
        steps: at most how many; none makes the sum larger.

    Returns:
        B ``[groups, rows, columns]``.

    Source: Hassibi & Stork 1993; Zeng & Urtasun 2018 for the Kronecker form.

    Example:
        >>> g, a = torch.eye(1)[None], torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
        >>> compensated(torch.ones(1, 1, 2), torch.tensor([[[True, False]]]), g, a)
        tensor([[[1.5000, 0.0000]]])
    """
    open_ = keep.to(weight.dtype)
    scale = open_ / (rows.diagonal(dim1=-2, dim2=-1)[:, :, None] * _diagonal(columns))
    result = weight * open_
    residual = rows @ (weight - result) @ columns * open_
    precise = _inner(residual, scale * residual)
    if not bool(precise.any()):
        return result
    direction = scale * residual
    info = torch.finfo(weight.dtype)
    end = info.eps**2 * precise
    for _ in range(steps):
        image = rows @ direction @ columns * open_
        # of a group that is done both are 0
        step = precise / _inner(direction, image).clamp_min(info.tiny)
        result += step * direction
        residual -= step * image
        last, precise = precise, _inner(residual, scale * residual)
        if bool((precise <= end).all()):
            break
        direction = scale * residual + precise / last.clamp_min(info.tiny) * direction
    return result


def _diagonal(columns: Tensor) -> Tensor:
    return columns.diagonal(dim1=-2, dim2=-1)[:, None, :]


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """``[groups, 1, 1]``."""
    return (a * b).sum((1, 2), keepdim=True)
