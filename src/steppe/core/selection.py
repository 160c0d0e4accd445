"""Exact selection by magnitude: thresholds, masks with exact counts, integer apportionment.

Every score is ranked by its absolute value, so signed weights are passed as they are. A float's
bits without the sign bit, read as an integer, rank exactly as its absolute value does; all
comparisons here are made on these integer *keys*: one rule for every dtype, no rounding, and NaN
(a key above infinity's) is seen at no extra cost.

The pooled threshold is found in the manner of Floyd and Rivest: a small seeded sample brackets
the k-th smallest key, one pass counts what lies below the bracket and collects what lies inside,
and the collected few are partitioned. A bracket that fails is noticed from the counts, and a
radix selection, exact whatever the data, takes over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError

__all__ = ["apportion", "count", "keep_largest", "keep_largest_per_row", "threshold"]

T = TypeVar("T")
# Integer keys of one piece: a numpy array on the CPU, a torch tensor on any other device. Both
# know the operators used here, and numpy's release the interpreter lock without an OpenMP team.
Keys = Any

_INTEGER = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_PIECE_CPU = 1 << 18  # elements whose keys and masks stay within a core's cache
_PIECE_OTHER = 1 << 24  # on an accelerator a piece must outweigh its kernel launches
_SMALL = 1 << 16  # up to here partitioning a copy is quicker than sampling
_THREADED = 1 << 20  # from here on starting threads pays
_CAP = 16  # at most 1/16 of the entries are ever collected: 12.5 % extra memory at worst
_SPREAD = 5.0  # half-width of the bracket in standard deviations of the sampled rank
_PAIRS = 16  # rows up to this long are ranked by comparing all pairs of columns


class _Pool(NamedTuple):
    """Tensors read as one sequence of keys of one dtype."""

    tensors: list[Tensor]
    labels: list[str]
    pieces: list[Tensor]  # cache-sized views, in order of (tensor, flat index)
    dtype: torch.dtype
    n: int

    @property
    def infinity(self) -> int:
        """The key of infinity; larger keys are NaN."""
        return int(torch.tensor(math.inf, dtype=self.dtype).view(_INTEGER[self.dtype]))


class _Choice(NamedTuple):
    """The k-th smallest key, how many keys are less, how many equal it."""

    key: int
    less: int
    equal: int


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
            way_out="use 0.95 for 95 % zeros",
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
    pool = _pool({f"tensors[{i}]": t for i, t in enumerate(tensors)})
    if not 1 <= k <= pool.n:
        raise SteppeError(f"the rank k must lie in 1..{pool.n}, the number of entries", got=k)
    found = _select(pool, k)
    value = torch.tensor(found.key, dtype=_INTEGER[pool.dtype]).view(pool.dtype)
    return float(value), found.less


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
    pool = _pool({name: tensors[name] for name in sorted(tensors)})
    if not 0 <= prune <= pool.n:
        raise SteppeError(
            f"the number to prune must lie in 0..{pool.n}, the number of entries",
            got=prune,
        )
    masks = {
        name: torch.empty(t.shape, dtype=torch.bool, device=t.device) for name, t in tensors.items()
    }
    if pool.n:
        found = _select(pool, max(prune, 1))
        targets = [
            target
            for name, t in zip(pool.labels, pool.tensors, strict=True)
            if t.numel()
            for target in masks[name].view(-1).split([p.numel() for p in _pieces(t)])
        ]
        _write_masks(pool, targets, found.key, _quotas(pool, found, prune))
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
    drop = torch.as_tensor(prune, device=scores.device)
    if drop.is_floating_point() or drop.ndim > 1 or drop.numel() not in (1, rows):
        raise SteppeError(
            f"prune must be an integer or an integer tensor of {rows} rows",
            got=f"{drop.dtype} of shape {tuple(drop.shape)}",
        )
    drop = drop.reshape(-1).expand(rows)
    if rows and not (0 <= int(drop.min()) and int(drop.max()) <= cols):
        raise SteppeError(
            f"the number to prune must lie in 0..{cols}, the length of a row",
            got=f"{int(drop.min())}..{int(drop.max())}",
        )
    mask = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    if not mask.numel():
        return mask
    pool = _pool({"scores": scores})
    step = max(1, (_PIECE_CPU if mask.device.type == "cpu" else _PIECE_OTHER) // cols)
    rule = _keep_by_pairs if cols <= _PAIRS else _keep_by_sorting

    def work(starts: range) -> int:
        top = -1
        for i in starts:
            part = slice(i, i + step)
            keys = _key(pool.tensors[0][part], pool.dtype).reshape(-1, cols)
            top = max(top, int(keys.max()))
            _native(mask[part])[...] = rule(keys, _native(drop[part]))
        return top

    _refuse_nan(pool, max(_share(range(0, rows, step), mask.numel(), work)))
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


def _pool(tensors: Mapping[str, Tensor]) -> _Pool:
    """Prepare named tensors for reading; no data is copied."""
    flat = {name: t.detach() for name, t in tensors.items()}
    for name, t in flat.items():
        if t.dtype not in _INTEGER:
            raise SteppeError(
                "scores must be float16, bfloat16, float32 or float64",
                got=f"{t.dtype} for {name}",
                way_out="convert them with .float()",
            )
    dtype = reduce(torch.promote_types, {t.dtype for t in flat.values()} or {torch.float32})
    pieces = [piece for t in flat.values() for piece in _pieces(t)]
    return _Pool(list(flat.values()), list(flat), pieces, dtype, sum(p.numel() for p in pieces))


def _pieces(t: Tensor) -> Iterator[Tensor]:
    """Views of at most a piece's length that cover a tensor in the order of its flat index."""
    limit = _PIECE_CPU if t.device.type == "cpu" else _PIECE_OTHER
    if t.numel() <= limit:
        if t.numel():
            yield t
    elif t.is_contiguous():
        yield from t.view(-1).split(limit)
    elif t.numel() // len(t) <= limit:
        yield from t.split(limit // (t.numel() // len(t)))
    else:
        for row in t:
            yield from _pieces(row)


def _native(t: Tensor) -> Keys:
    """The tensor as numpy array where its memory can be read so, else the tensor itself."""
    return t.numpy() if t.device.type == "cpu" else t


def _key(piece: Tensor, dtype: torch.dtype, buffer: np.ndarray[Any, Any] | None = None) -> Keys:
    """Integer keys of a piece, flat: bits of ``|x|``, which rank as ``|x|`` does."""
    bits = _native(piece.to(dtype).reshape(-1).view(_INTEGER[dtype]))
    without_sign = torch.iinfo(_INTEGER[dtype]).max
    if buffer is None or not isinstance(bits, np.ndarray):
        return bits & without_sign
    return np.bitwise_and(bits, without_sign, out=buffer[: len(bits)])


def _total(mask: Keys) -> int:
    """Number of True."""
    return int(np.count_nonzero(mask) if isinstance(mask, np.ndarray) else mask.sum())


def _host(keys: Keys) -> np.ndarray[Any, Any]:
    """The keys as a numpy array."""
    return keys if isinstance(keys, np.ndarray) else keys.cpu().numpy()  # type: ignore[no-any-return]


def _buffer(pool: _Pool) -> np.ndarray[Any, Any]:
    """Room for the keys of one piece, reused by a thread for all its pieces."""
    size = min(pool.n, _PIECE_CPU)
    return np.empty(size, dtype=f"int{8 * pool.dtype.itemsize}")


def _share(items: Any, n: int, work: Callable[[Any], T]) -> list[T]:
    """Apply work to consecutive shares of the items, one per thread; results in order."""
    threads = min(torch.get_num_threads() if n >= _THREADED else 1, len(items))
    if threads <= 1:
        return [work(items)]
    bounds = [len(items) * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as executor:
        return list(executor.map(work, [items[a:b] for a, b in pairwise(bounds)]))


def _refuse_nan(pool: _Pool, top: int) -> None:
    """Raise if the largest key is that of a NaN."""
    if top <= pool.infinity:
        return
    where = [n for n, t in zip(pool.labels, pool.tensors, strict=True) if bool(t.isnan().any())]
    raise SteppeError(
        "scores must not be NaN",
        got=f"NaN in {', '.join(where[:5])}{' and more' if len(where) > 5 else ''}",
        consequence="NaN has no rank, so no exact number of entries can be kept",
        way_out="find the step that makes them, or replace them with torch.nan_to_num",
    )


def _select(pool: _Pool, k: int) -> _Choice:
    """The k-th smallest key of a pool, exactly."""
    if pool.n <= _SMALL:
        keys = np.concatenate([_host(_key(piece, pool.dtype)) for piece in pool.pieces])
        _refuse_nan(pool, int(keys.max()))
        return _partition(keys, k, 0)
    low, high = _bracket(pool, k)
    at_most_low, inside, keys, top = _scan(pool, low, high)
    _refuse_nan(pool, top)
    if at_most_low < k <= at_most_low + inside and len(keys) == inside:
        return _partition(keys, k - at_most_low, at_most_low)
    # Heavy ties put the answer on an end of the bracket: one more count shows it.
    if k <= at_most_low:
        less = at_most_low - _count_equal(pool, low)
        if less < k:
            return _Choice(low, less, at_most_low - less)
    elif k > at_most_low + inside:
        equal = _count_equal(pool, high)
        if k <= at_most_low + inside + equal:
            return _Choice(high, at_most_low + inside, equal)
    return _radix(pool, k)


def _partition(keys: np.ndarray[Any, Any], k: int, below: int) -> _Choice:
    """The k-th smallest of the keys (reordered in place), ``below`` more being smaller."""
    keys.partition(k - 1)
    key = int(keys[k - 1])
    # All smaller ones now stand in front, equal ones on both sides.
    return _Choice(key, below + _total(keys[:k] < key), _total(keys == key))


def _bracket(pool: _Pool, k: int) -> tuple[int, int]:
    """Two keys, from a stratified sample, that very likely enclose the k-th smallest."""
    size = min(pool.n, int(2 * pool.n ** (2 / 3)))
    # One draw per stratum, from a fixed seed: repeatable, and torch's generator stays untouched.
    draw = np.random.default_rng(0).random(size, dtype=np.float32)
    position = np.minimum((np.arange(size) + draw) * (pool.n / size), pool.n - 1).astype(np.int64)
    start = list(accumulate((t.numel() for t in pool.tensors), initial=0))
    cut = np.searchsorted(position, start)
    sampled = []
    for i, t in enumerate(pool.tensors):
        if cut[i] == cut[i + 1]:
            continue
        index = torch.from_numpy(position[cut[i] : cut[i + 1]] - start[i]).to(t.device)
        where = (index,) if t.is_contiguous() else torch.unravel_index(index, t.shape)
        chosen = (t.view(-1) if t.is_contiguous() else t)[where]
        sampled.append(_host(_key(chosen, pool.dtype)))
    keys = np.concatenate(sampled)
    p = k / pool.n
    margin = _SPREAD * math.sqrt(size * p * (1 - p)) + 4
    a, b = math.floor(p * size - margin), math.ceil(p * size + margin)
    keys.partition([min(max(i, 0), size - 1) for i in (a, b)])
    low = min(int(keys[a]), pool.infinity) if a >= 0 else -1
    high = min(int(keys[b]), pool.infinity) if b < size else pool.infinity + 1
    return low, max(high, low + 1)


def _scan(pool: _Pool, low: int, high: int) -> tuple[int, int, np.ndarray[Any, Any], int]:
    """One pass: number of keys <= low, number and list of keys between, largest key.

    The list is left short once it would break the memory limit; the number tells.
    """
    room = pool.n // _CAP

    def work(pieces: list[Tensor]) -> tuple[int, int, list[np.ndarray[Any, Any]], int]:
        nonlocal room
        buffer = _buffer(pool)
        at_most_low, inside, found, top = 0, 0, [], -1
        for piece in pieces:
            keys = _key(piece, pool.dtype, buffer)
            top = max(top, int(keys.max()))
            under = keys <= low
            at_most_low += _total(under)
            between = (keys < high) ^ under
            here = _total(between)
            inside += here
            # Threads may race for the room, but only when it runs out in any case.
            room -= here
            if here and room >= 0:
                found.append(_host(keys[between]))
        return at_most_low, inside, found, top

    parts = _share(pool.pieces, pool.n, work)
    found = [keys for part in parts for keys in part[2]] or [_buffer(pool)[:0]]
    inside = sum(part[1] for part in parts)
    keys = np.concatenate(found) if inside <= pool.n // _CAP else found[0][:0]
    return sum(part[0] for part in parts), inside, keys, max(part[3] for part in parts)


def _equal_per_piece(pool: _Pool, key: int) -> list[int]:
    """Number of keys equal to the given one, for each piece."""

    def work(pieces: list[Tensor]) -> list[int]:
        buffer = _buffer(pool)
        return [_total(_key(piece, pool.dtype, buffer) == key) for piece in pieces]

    return [number for part in _share(pool.pieces, pool.n, work) for number in part]


def _count_equal(pool: _Pool, key: int) -> int:
    """Number of keys equal to the given one."""
    return sum(_equal_per_piece(pool, key)) if 0 <= key <= pool.infinity else 0


def _radix(pool: _Pool, k: int) -> _Choice:
    """The k-th smallest key by histograms of 16 bits at a time: slower, exact on any data."""
    prefix, less, equal = 0, 0, 0
    for shift in range(8 * pool.dtype.itemsize - 16, -1, -16):
        histogram = torch.zeros(1 << 16, dtype=torch.int64)
        for piece in pool.pieces:
            keys = torch.as_tensor(_key(piece, pool.dtype)).long() >> shift
            keys = keys[keys >> 16 == prefix] & 0xFFFF
            histogram += torch.bincount(keys, minlength=1 << 16).cpu()
        reached = histogram.cumsum(0)
        digit = int(torch.searchsorted(reached, k - less))
        equal = int(histogram[digit])
        less += int(reached[digit]) - equal
        prefix = prefix << 16 | digit
    return _Choice(prefix, less, equal)


def _quotas(pool: _Pool, found: _Choice, prune: int) -> list[int | None]:
    """How many of the entries equal to the threshold each piece keeps; None for all of them."""
    kept = found.less + found.equal - prune
    if kept in (0, found.equal):
        return [None if kept else 0] * len(pool.pieces)
    equal = _equal_per_piece(pool, found.key)
    quotas: list[int | None] = []
    for number in equal:
        quotas.append(None if number <= kept else kept)
        kept -= min(kept, number)
    return quotas


def _write_masks(pool: _Pool, masks: list[Tensor], key: int, quotas: Sequence[int | None]) -> None:
    """Fill the masks, piece by piece: keys above the threshold and the first equal ones."""

    def work(pieces: list[tuple[Tensor, Tensor, int | None]]) -> None:
        buffer = _buffer(pool)
        for piece, mask, quota in pieces:
            keys, target = _key(piece, pool.dtype, buffer), _native(mask.view(-1))
            target[:] = keys >= key if quota is None else keys > key
            if quota:
                ties = torch.as_tensor(keys == key).nonzero().view(-1)[:quota]
                target[_native(ties)] = True

    _share(list(zip(pool.pieces, masks, quotas, strict=True)), pool.n, work)


def _keep_by_pairs(keys: Keys, prune: Keys) -> Keys:
    """Mask of short rows: the rank of each column from comparisons with all others."""
    native = isinstance(keys, np.ndarray)
    columns = np.ascontiguousarray(keys.T) if native else keys.T.contiguous()
    small = np.int8 if native else torch.int8
    ranks = columns.astype(small) if native else columns.to(small)
    for j in range(len(columns)):
        ranks[j] = j
    for j in range(len(columns)):
        for i in range(j + 1, len(columns)):
            # Of equal entries the later is dropped first, hence <=.
            before = (columns[i] <= columns[j]).view(small)
            ranks[j] += before
            ranks[i] -= before
    return (ranks >= (prune.astype(small) if native else prune.to(small))).T


def _keep_by_sorting(keys: Keys, prune: Keys) -> Keys:
    """Mask of long rows: each row's threshold from its sorted keys, ties counted from the left."""
    rank = (prune - 1).clip(0)[:, None]
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
