"""Exact selection by magnitude: thresholds, masks with exact counts, integer apportionment.

Every score is ranked by its absolute value, so signed weights are passed as they are. Counts are
exact for any data: of equal values the earliest are kept, where entries are ordered by (name,
flat index). The search for the threshold itself is ``steppe.core.ranking``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.ranking import (
    INTEGER,
    PIECE_CPU,
    PIECE_OTHER,
    Choice,
    Keys,
    Pool,
    buffer_for,
    equal_per_piece,
    infinity_of,
    keys_of,
    native,
    pieces_of,
    pool_of,
    refuse_nan,
    select,
    share_out,
)

__all__ = ["apportion", "count", "keep_largest", "keep_largest_per_row", "threshold"]

_PAIRS = 16  # rows up to this long are ranked by comparing all pairs of columns


def share_of(percent: object) -> str:
    """How a share of so many percent is written; an example where that is no percentage.

    Example:
        >>> share_of(90), share_of(-1)
        ('0.9 for 90', '0.95 for 95')
    """
    given = percent if isinstance(percent, int | float) and 1 < percent < 100 else 95
    return f"{given / 100:g} for {given:g}"


def count(sparsity: float, n: int) -> int:
    """Number of entries to prune: ``round(sparsity * n)``, an exact half going to the even number.

    Args:
        sparsity: share of zeros, in [0, 1].
        n: number of entries.

    Returns:
        The number of entries that become zero, in 0..n.

    Raises:
        SteppeError: if ``sparsity`` lies outside [0, 1] or ``n`` is negative.

    Example:
        >>> count(0.95, 1000), count(0.5, 5)
        (950, 2)
    """
    if not 0 <= sparsity <= 1:
        raise SteppeError(
            "sparsity must lie in [0, 1]",
            got=sparsity,
            way_out=f"use {share_of(sparsity)} %",
        )
    if n < 0:
        raise SteppeError("the number of entries must not be negative", got=n)
    return round(sparsity * n)


def threshold(tensors: Sequence[Tensor], k: int) -> tuple[float, int]:
    """Exact k-th smallest absolute value of all entries pooled.

    ``v = sort(|x_1|, ..., |x_n|)[k - 1]`` and ``less = #{i : |x_i| < v}``; nothing is concatenated
    but small inputs, and the extra memory stays below 20 % of the tensors' own.

    Args:
        tensors: floating-point tensors of any shapes, layouts, devices and dtypes; of mixed
            dtypes each value is compared exactly, in the promoted dtype.
        k: rank, 1 for the smallest, n for the largest.

    Returns:
        ``(v, less)``: ``v`` is exact as a Python float for every dtype.

    Raises:
        SteppeError: if k is not in 1..n, an entry is NaN or a dtype is not floating point.

    Example:
        >>> threshold([torch.tensor([3.0, -1.0]), torch.tensor([[-2.0], [1.0]])], k=2)
        (1.0, 0)
    """
    pool = pool_of({f"tensors[{i}]": t for i, t in enumerate(tensors)})
    if not 1 <= k <= pool.n:
        raise SteppeError(f"the rank k must lie in 1..{pool.n}, the number of entries", got=k)
    choice = select(pool, k)
    value = torch.tensor(choice.key, dtype=INTEGER[pool.dtype]).view(pool.dtype)
    return float(value), choice.less


def keep_largest(tensors: Mapping[str, Tensor], prune: int) -> dict[str, Tensor]:
    """Masks that keep all but the ``prune`` entries of smallest absolute value, exactly.

    ``mask = |x| > v``, plus the earliest of the entries with ``|x| = v``, where v is the
    ``prune``-th smallest absolute value and entries are ordered by (name, flat index); the names
    are sorted, so the result does not depend on the order of the mapping.

    Args:
        tensors: named floating-point tensors, of any shapes.
        prune: number of entries to drop, in 0..n.

    Returns:
        For each name, in the mapping's order, a contiguous bool mask of the tensor's shape, True
        where the entry is kept; exactly ``prune`` entries are False.

    Raises:
        SteppeError: if prune is not in 0..n, an entry is NaN or a dtype is not floating point.

    Example:
        >>> keep_largest({"b": torch.tensor([1.0, -5.0]), "a": torch.tensor([-1.0, 0.5])}, prune=2)
        {'b': tensor([False,  True]), 'a': tensor([ True, False])}
    """
    pool = pool_of({name: tensors[name] for name in sorted(tensors)})
    if not 0 <= prune <= pool.n:
        raise SteppeError(
            f"the number to prune must lie in 0..{pool.n}, the number of entries",
            got=prune,
        )
    masks = {
        name: torch.empty(t.shape, dtype=torch.bool, device=t.device) for name, t in tensors.items()
    }
    if pool.n:
        choice = select(pool, max(prune, 1))
        targets = [
            target
            for name, t in zip(pool.labels, pool.tensors, strict=True)
            if t.numel()
            for target in masks[name].view(-1).split([p.numel() for p in pieces_of(t)])
        ]
        _write_masks(pool, targets, choice.key, _quotas(pool, choice, prune))
    return masks


def keep_largest_per_row(scores: Tensor, prune: Tensor | int) -> Tensor:
    """Mask that drops, in each row, exactly the given number of smallest absolute values.

    ``mask[r, c] = #{d : |s[r, d]| < |s[r, c]|, or equal and d > c} >= prune[r]``: of equal entries
    the earliest are kept.

    Args:
        scores: floating-point tensor [rows, cols]; for N:M sparsity [groups, M].
        prune: number to drop in every row, or an integer tensor [rows] of numbers, in 0..cols.

    Returns:
        Bool tensor [rows, cols], True where the entry is kept.

    Raises:
        SteppeError: if the shapes do not fit, a number is not in 0..cols, or an entry is NaN.

    Example:
        >>> keep_largest_per_row(torch.tensor([[1.0, -3.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]]), 2)
        tensor([[False,  True, False,  True],
                [ True,  True, False, False]])
    """
    if scores.ndim != 2:
        raise SteppeError("scores must have two dimensions, rows and cols", got=tuple(scores.shape))
    rows, cols = scores.shape
    drop = _per_row(prune, scores)
    pairs = cols <= _PAIRS
    turned = pairs and scores.t().is_contiguous()  # then its columns are read as they lie
    mask = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    if not mask.numel():
        return mask
    mask = mask.view(cols, rows).t() if turned else mask
    values, dtype = scores.detach(), scores.dtype
    if dtype not in INTEGER:
        pool_of({"scores": scores})  # says what is wrong
    step = max(1, (PIECE_CPU if mask.device.type == "cpu" else PIECE_OTHER) // cols)

    def work(starts: range) -> int:
        top = -1
        for i in starts:
            part = slice(i, i + step)
            flat = keys_of(values[part].t() if turned else values[part], dtype)
            top = max(top, int(flat.max()))
            number = drop if isinstance(drop, int) else native(drop[part])
            columns = flat.reshape(cols, -1) if turned else flat.reshape(-1, cols).T
            keep = _keep_by_pairs(columns, number) if pairs else _keep_by_sorting(columns.T, number)
            native(mask[part])[...] = keep.T if pairs else keep
        return top

    top = max(share_out(range(0, rows, step), mask.numel(), work))
    if top > infinity_of(dtype):
        refuse_nan(pool_of({"scores": scores}), top)
    return mask


def apportion(shares: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Integers proportional to shares, with exact sum, none above its size.

    ``c_l = floor(q_l)``, plus 1 for the largest remainders ``q_l - floor(q_l)`` until the sum is
    ``total``; ``q_l = min(size_l, s share_l)`` with s such that ``sum q_l = total``. What no layer
    with a positive share can take goes to the layers with share 0, in proportion to their sizes.
    Equal remainders are served in the order of the sorted names; the arithmetic is exact.

    Args:
        shares: finite, non-negative quota per name; only their proportions count.
        sizes: largest number per name, for the same names.
        total: the sum to reach, in 0..sum(sizes).

    Returns:
        The number per name, in the order of ``shares``.

    Raises:
        SteppeError: if names differ, a share is negative or not finite, or total is out of range.

    Example:
        >>> apportion({"a": 1.5, "b": 1.5, "c": 7.0}, {"a": 9, "b": 9, "c": 5}, total=10)
        {'a': 3, 'b': 2, 'c': 5}
    """
    if set(shares) != set(sizes):
        raise SteppeError(
            "shares and sizes must have the same names",
            got=sorted(set(shares) ^ set(sizes)),
        )
    wrong = {n: v for n, v in shares.items() if not (math.isfinite(v) and v >= 0)}
    wrong |= {n: v for n, v in sizes.items() if v < 0}
    if wrong:
        raise SteppeError("shares and sizes must be finite and not negative", got=wrong)
    if not 0 <= total <= sum(sizes.values()):
        raise SteppeError(
            f"the total must lie in 0..{sum(sizes.values())}, the sum of the sizes",
            got=total,
        )
    quotas = _quotas_within(shares, sizes, total)
    result = {name: math.floor(quotas[name]) for name in shares}
    remainder = sorted(quotas, key=lambda name: (result[name] - quotas[name], name))
    for name in remainder[: total - sum(result.values())]:
        result[name] += 1
    return result


def _quotas_within(
    shares: Mapping[str, float], sizes: Mapping[str, int], total: int
) -> dict[str, Fraction]:
    """Exact real quotas proportional to shares, capped by sizes, with sum ``total``."""
    quotas = {name: Fraction(0) for name in sorted(shares)}
    left = Fraction(total)
    # A size is a safe second share: in proportion to sizes nothing overflows before all is full.
    for weights in (
        {n: Fraction(shares[n]) for n in quotas if shares[n] > 0},
        {n: Fraction(sizes[n]) for n in quotas if shares[n] == 0 and sizes[n] > 0},
    ):
        while weights and left:
            scale = left / sum(weights.values())
            full = [n for n, w in weights.items() if w * scale >= sizes[n]]
            for name in full or list(weights):
                quotas[name] = Fraction(sizes[name]) if full else weights[name] * scale
                left -= quotas[name]
                del weights[name]
    return quotas


def _quotas(pool: Pool, choice: Choice, prune: int) -> list[int | None]:
    """How many of the entries equal to the threshold each piece keeps; None for all of them."""
    kept = choice.less + choice.equal - prune
    if kept in (0, choice.equal):
        return [None if kept else 0] * len(pool.pieces)
    equal = equal_per_piece(pool, choice.key)
    quotas: list[int | None] = []
    for number in equal:
        quotas.append(None if number <= kept else kept)
        kept -= min(kept, number)
    return quotas


def _write_masks(pool: Pool, masks: list[Tensor], key: int, quotas: Sequence[int | None]) -> None:
    """Fill the masks, piece by piece: keys above the threshold and the first equal ones."""

    def work(pieces: list[tuple[Tensor, Tensor, int | None]]) -> None:
        buffer = buffer_for(pool)
        for piece, mask, quota in pieces:
            keys, target = keys_of(piece, pool.dtype, buffer), native(mask.view(-1))
            target[:] = keys >= key if quota is None else keys > key
            if quota:
                ties = (keys == key).nonzero()
                ties = ties[0] if isinstance(keys, np.ndarray) else ties.view(-1)
                target[ties[:quota]] = True

    share_out(list(zip(pool.pieces, masks, quotas, strict=True)), pool.n, work)


def _per_row(prune: Tensor | int, scores: Tensor) -> Tensor | int:
    """The numbers to drop, one for all rows as it is, checked."""
    rows, cols = scores.shape
    if isinstance(prune, int) and 0 <= prune <= cols:
        return prune
    drop = torch.as_tensor(prune, device=scores.device)
    if drop.is_floating_point() or drop.ndim > 1 or drop.numel() not in (1, rows):
        raise SteppeError(
            f"prune must be an integer or an integer tensor of {rows} rows",
            got=f"{drop.dtype} of shape {tuple(drop.shape)}",
        )
    if rows and not (0 <= int(drop.min()) and int(drop.max()) <= cols):
        raise SteppeError(
            f"the number to prune must lie in 0..{cols}, the length of a row",
            got=f"{int(drop.min())}..{int(drop.max())}",
        )
    return drop.reshape(-1).expand(rows)


def _keep_by_pairs(columns: Keys, prune: Keys | int) -> Keys:
    """Mask of short rows, turned like the keys: each rank from comparisons with all others.

    Args:
        columns: keys ``[cols, rows]``.
        prune: how many of each row go.
    """
    if isinstance(columns, np.ndarray):
        small: Any = np.int8
        columns = np.ascontiguousarray(columns)
        ranks: Keys = np.empty(columns.shape, dtype=small)
        prune = prune if isinstance(prune, int) else prune.astype(small)
    else:
        small, columns = torch.int8, columns.contiguous()
        prune = prune if isinstance(prune, int) else prune.to(torch.int8)
        ranks = torch.empty_like(columns, dtype=small)
    for j in range(len(columns)):
        ranks[j] = j
    for j in range(len(columns)):
        for i in range(j + 1, len(columns)):
            # Of equal entries the later is dropped first, hence <=.
            before = (columns[i] <= columns[j]).view(small)
            ranks[j] += before
            ranks[i] -= before
    return ranks >= prune


def _keep_by_sorting(keys: Keys, prune: Keys | int) -> Keys:
    """Mask of long rows: each row's threshold from its sorted keys, ties counted from the left."""
    if isinstance(prune, int):
        same: Any = np.full(len(keys), prune)
        prune = same if isinstance(keys, np.ndarray) else torch.from_numpy(same).to(keys.device)
    rank: Any = (prune - 1).clip(0)[:, None]
    if not isinstance(keys, np.ndarray):
        value = keys.sort(1).values.take_along_dim(rank, 1)
    elif rank.min() == rank.max():
        value = np.partition(keys, rank[0, 0], axis=1)[:, rank[0]]
    else:
        value = np.take_along_axis(np.sort(keys, axis=1), rank, 1)
    keep = keys >= value
    surplus = keep.sum(1) - keys.shape[1] + prune
    tied = surplus > 0
    if tied.any():
        equal = keys[tied] == value[tied]
        order = equal.cumsum(1)
        keep[tied] ^= equal & (order > order[:, -1:] - surplus[tied][:, None])
    return keep
