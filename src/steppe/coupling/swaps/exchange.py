"""Exchanges of kept and pruned weights, row by row, many rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.coupling.swaps.pairs import TABLE, GroupPairs, Offers, Pairs, RowPairs

_ROWS = 1 << 22  # numbers of the rows that are worked at together


def memory(rows: int, columns: int) -> int:
    """Float32 numbers that `exchanged` holds at its peak, of a layer of this shape."""
    together = min(rows * columns, max(_ROWS, columns))
    tables = 3 * min(TABLE, together * columns)
    return 2 * columns**2 + 2 * rows * columns + 24 * together + tables


def exchanged(
    gram: Tensor,
    dense: Tensor,
    sparse: Tensor,
    mask: Tensor,
    swaps: int,
    group: int = 1,
    gone: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The weights and the mask after the best exchanges of each row.

    Args:
        gram: G ``[columns, columns]``.
        dense: w0 ``[rows, columns]``, what comes back.
        sparse: w ``[rows, columns]``, zero outside the mask.
        mask: ``[rows, columns]`` booleans, True = kept.
        swaps: of a row, at most.
        group: columns within which weights are exchanged, M of N:M; 1 for all of the row.
        gone: booleans ``[rows, columns]``, True where nothing comes back.

    Returns:
        New weights and mask, with as many False in each row and group.
    """
    sparse, mask = sparse.clone(), mask.clone()
    pairs: Pairs = RowPairs(gram) if group == 1 else GroupPairs(gram, group)
    fixed = torch.zeros_like(mask) if gone is None else gone
    step = max(1, _ROWS // gram.shape[0])
    for start in range(0, len(dense), step):
        part = slice(start, start + step)
        _exchange(pairs, gram, dense[part], sparse[part], mask[part], fixed[part], swaps)
    return sparse, mask


def _exchange(
    pairs: Pairs,
    gram: Tensor,
    dense: Tensor,
    sparse: Tensor,
    mask: Tensor,
    fixed: Tensor,
    swaps: int,
) -> None:
    """As `exchanged`, in place."""
    diagonal, infinity = gram.diagonal(), torch.inf
    active = torch.arange(len(dense), device=dense.device)
    u, c = torch.where(mask, sparse, dense), (dense - sparse) @ gram
    kept, free = mask.clone(), ~mask & ~fixed
    for _ in range(swaps):
        own, square = 2.0 * u * c, u * u * diagonal
        offers = Offers(
            prune=(square + own).masked_fill_(~kept, infinity),
            restore=(square - own).masked_fill_(~free, infinity),
            u=u,
        )
        change, p, q = pairs.best(offers)
        better = change < -_rounding(offers, p, q)
        if not bool(better.all()):
            some = better.nonzero()[:, 0]
            active, u, c, p, q = active[some], u[some], c[some], p[some], q[some]
            kept, free = kept[some], free[some]
        if not len(active):
            return
        rows = torch.arange(len(active), device=active.device)
        u_p, u_q = u[rows, p], u[rows, q]
        c += u_p[:, None] * gram[p] - u_q[:, None] * gram[q]
        kept[rows, p], kept[rows, q], free[rows, q], free[rows, p] = False, True, False, True
        u[rows, p] = dense[active, p]
        mask[active, p], mask[active, q] = False, True
        sparse[active, p], sparse[active, q] = 0.0, u_q


def _rounding(offers: Offers, p: Tensor, q: Tensor) -> Tensor:
    """Up to where a change is only rounding, ``[rows]``; infinity where there is no pair."""
    both = torch.stack([offers.prune.gather(1, p[:, None]), offers.restore.gather(1, q[:, None])])
    return 8.0 * torch.finfo(both.dtype).eps * both.abs().sum(0)[:, 0]
