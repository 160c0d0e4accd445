"""The k-th smallest absolute value of many tensors at once, exactly and with little memory.

A float's bits without the sign bit, read as an integer, rank exactly as its absolute value does.
All comparisons are made on these integer *keys*: one rule for every dtype, no rounding, and NaN
(a key above infinity's) is seen at no extra cost.

The rank is found in the manner of Floyd and Rivest: a small seeded sample brackets the k-th
smallest key, one pass counts what lies below the bracket and collects what lies inside, and the
collected few are partitioned. A bracket that fails is noticed from the counts, and a radix
selection, exact whatever the data, takes over. ``steppe.core.selection`` is the public face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError

T = TypeVar("T")
# Integer keys of one piece: a numpy array on the CPU, a torch tensor on any other device. Both
# know the operators used here, and numpy's release the interpreter lock without an OpenMP team.
Keys = Any

INTEGER = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
PIECE_CPU = 1 << 19  # elements whose keys and masks stay within the cache
PIECE_OTHER = 1 << 24  # on an accelerator a piece must outweigh its kernel launches
SMALL = 1 << 16  # up to here partitioning a copy is as quick as sampling
THREADED = 1 << 20  # from here on starting threads pays
CAP = 16  # at most 1/16 of the entries are ever collected: 12.5 % extra memory at worst
SPREAD = 5.0  # half-width of the bracket in standard deviations of the sampled rank


@cache
def infinity_of(dtype: torch.dtype) -> int:
    """The key of infinity; larger keys are NaN."""
    return int(torch.tensor(math.inf, dtype=dtype).view(INTEGER[dtype]))


class Pool(NamedTuple):
    """Tensors read as one sequence of keys of one dtype."""

    tensors: list[Tensor]
    labels: list[str]
    pieces: list[Tensor]  # cache-sized views, in order of (tensor, flat index)
    dtype: torch.dtype
    n: int

    @property
    def infinity(self) -> int:
        """The key of infinity; larger keys are NaN."""
        return infinity_of(self.dtype)


class Choice(NamedTuple):
    """The k-th smallest key, how many keys are less, how many equal it."""

    key: int
    less: int
    equal: int


def pool_of(tensors: Mapping[str, Tensor]) -> Pool:
    """Prepare named tensors for reading; no data is copied."""
    flat = {name: t.detach() for name, t in tensors.items()}
    for name, t in flat.items():
        if t.dtype not in INTEGER:
            raise SteppeError(
                "scores must be float16, bfloat16, float32 or float64",
                got=f"{t.dtype} for {name}",
                way_out="convert them with .float()",
            )
    dtype = reduce(torch.promote_types, {t.dtype for t in flat.values()} or {torch.float32})
    pieces = [piece for t in flat.values() for piece in pieces_of(t)]
    return Pool(list(flat.values()), list(flat), pieces, dtype, sum(p.numel() for p in pieces))


def pieces_of(t: Tensor) -> Iterator[Tensor]:
    """Views of at most a piece's length that cover a tensor in the order of its flat index."""
    limit = PIECE_CPU if t.device.type == "cpu" else PIECE_OTHER
    if t.numel() <= limit:
        if t.numel():
            yield t
    elif t.is_contiguous():
        yield from t.view(-1).split(limit)
    elif t.numel() // len(t) <= limit:
        yield from t.split(limit // (t.numel() // len(t)))
    else:
        for row in t:
            yield from pieces_of(row)


def native(t: Tensor) -> Keys:
    """The tensor as numpy array where its memory can be read so, else the tensor itself."""
    return t.numpy() if t.device.type == "cpu" else t


def keys_of(piece: Tensor, dtype: torch.dtype, buffer: np.ndarray[Any, Any] | None = None) -> Keys:
    """Integer keys of a piece, flat: bits of ``|x|``, which rank as ``|x|`` does."""
    bits = native(piece.to(dtype).reshape(-1).view(INTEGER[dtype]))
    without_sign = torch.iinfo(INTEGER[dtype]).max
    if buffer is None or not isinstance(bits, np.ndarray):
        return bits & without_sign
    return np.bitwise_and(bits, without_sign, out=buffer[: len(bits)])


def how_many(mask: Keys) -> int:
    """Number of True."""
    return int(np.count_nonzero(mask) if isinstance(mask, np.ndarray) else mask.sum())


def host(keys: Keys) -> np.ndarray[Any, Any]:
    """The keys as a numpy array."""
    return keys if isinstance(keys, np.ndarray) else keys.cpu().numpy()


def buffer_for(pool: Pool) -> np.ndarray[Any, Any]:
    """Room for the keys of one piece, reused by a thread for all its pieces."""
    size = min(pool.n, PIECE_CPU)
    return np.empty(size, dtype=f"int{8 * pool.dtype.itemsize}")


def share_out(items: Any, n: int, work: Callable[[Any], T]) -> list[T]:
    """Apply work to consecutive shares of the items, one per thread; results in order."""
    threads = min(torch.get_num_threads() if n >= THREADED else 1, len(items))
    if threads <= 1:
        return [work(items)]
    bounds = [len(items) * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as executor:
        return list(executor.map(work, [items[a:b] for a, b in pairwise(bounds)]))


def refuse_nan(pool: Pool, top: int) -> None:
    """Raise if the largest key is that of a NaN."""
    if top <= pool.infinity:
        return
    where = [n for n, t in zip(pool.labels, pool.tensors, strict=True) if bool(t.isnan().any())]
    raise SteppeError(
        "scores must not be NaN",
        got=f"NaN in {', '.join(where[:5])}{' and more' if len(where) > 5 else ''}",
        consequence="NaN has no rank, so no exact number of entries can be kept",
        way_out="a smaller learning rate, rho or penalty where a training diverged; else find the "
        "step that makes them, or replace them with torch.nan_to_num",
    )


def select(pool: Pool, k: int) -> Choice:
    """The k-th smallest key of a pool, exactly."""
    if pool.n <= SMALL:
        keys = np.concatenate([host(keys_of(piece, pool.dtype)) for piece in pool.pieces])
        refuse_nan(pool, int(keys.max()))
        return _partition(keys, k, 0)
    low, high = _bracket(pool, k)
    at_most_low, inside, keys, top = _scan(pool, low, high)
    refuse_nan(pool, top)
    if at_most_low < k <= at_most_low + inside and len(keys) == inside:
        return _partition(keys, k - at_most_low, at_most_low)
    # Heavy ties put the answer on an end of the bracket: one more count shows it.
    if k <= at_most_low:
        less = at_most_low - _count_equal(pool, low)
        if less < k:
            return Choice(low, less, at_most_low - less)
    elif k > at_most_low + inside:
        equal = _count_equal(pool, high)
        if k <= at_most_low + inside + equal:
            return Choice(high, at_most_low + inside, equal)
    return _radix(pool, k)


def _partition(keys: np.ndarray[Any, Any], k: int, below: int) -> Choice:
    """The k-th smallest of the keys (reordered in place), ``below`` more being smaller."""
    keys.partition(k - 1)
    key = int(keys[k - 1])
    # All smaller ones now stand in front, equal ones on both sides.
    return Choice(key, below + how_many(keys[:k] < key), how_many(keys == key))


def _keys_at(t: Tensor, index: np.ndarray[Any, Any], dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """The keys at the given flat indices of a tensor."""
    bits = t.view(INTEGER[t.dtype])
    where: tuple[np.ndarray[Any, Any], ...] = (index,)
    if t.is_contiguous():
        bits = bits.view(-1)
    else:
        where = np.unravel_index(index, t.shape)
    # numpy gathers without an OpenMP team, which costs much on a busy machine.
    if t.device.type == "cpu":
        chosen = torch.from_numpy(bits.numpy()[where])
    else:
        chosen = bits[tuple(torch.from_numpy(axis) for axis in where)]
    return host(keys_of(chosen.view(t.dtype), dtype))


def _bracket(pool: Pool, k: int) -> tuple[int, int]:
    """Two keys, from a stratified sample, that very likely enclose the k-th smallest."""
    size = int(pool.n ** (2 / 3))
    # One draw per stratum, from a fixed seed: repeatable, and torch's generator stays untouched.
    draw = np.random.default_rng(0).random(size)
    position = np.minimum((np.arange(size) + draw) * (pool.n / size), pool.n - 1).astype(np.int64)
    start = list(accumulate((t.numel() for t in pool.tensors), initial=0))
    bounds = np.searchsorted(position, start)
    keys = np.concatenate(
        [
            _keys_at(t, position[bounds[i] : bounds[i + 1]] - start[i], pool.dtype)
            for i, t in enumerate(pool.tensors)
        ]
    )
    p = k / pool.n
    margin = SPREAD * math.sqrt(size * p * (1 - p)) + 4
    a, b = math.floor(p * size - margin), math.ceil(p * size + margin)
    keys.partition([min(max(i, 0), size - 1) for i in (a, b)])
    low = min(int(keys[a]), pool.infinity) if a >= 0 else -1
    high = min(int(keys[b]), pool.infinity) if b < size else pool.infinity + 1
    return low, max(high, low + 1)


def _scan(pool: Pool, low: int, high: int) -> tuple[int, int, np.ndarray[Any, Any], int]:
    """One pass: number of keys <= low, number and list of keys between, largest key.

    The list is left short once it would break the memory limit; the number tells.
    """
    room = pool.n // CAP

    def work(pieces: list[Tensor]) -> tuple[int, int, list[np.ndarray[Any, Any]], int]:
        nonlocal room
        buffer = buffer_for(pool)
        masks = np.empty((2, len(buffer)), dtype=bool)
        at_most_low, inside, collected, top = 0, 0, [], -1
        for piece in pieces:
            keys = keys_of(piece, pool.dtype, buffer)
            top = max(top, int(keys.max()))
            ops: Any = np if isinstance(keys, np.ndarray) else torch
            room_a, room_b = masks[:, : len(keys)] if ops is np else (None, None)
            under = ops.less_equal(keys, low, out=room_a)
            at_most_low += how_many(under)
            between = ops.logical_xor(ops.less(keys, high, out=room_b), under, out=room_b)
            here = how_many(between)
            inside += here
            # Threads may race for the room, but only when it runs out in any case.
            room -= here
            if here and room >= 0:
                collected.append(host(keys[between]))
        return at_most_low, inside, collected, top

    parts = share_out(pool.pieces, pool.n, work)
    collected = [keys for part in parts for keys in part[2]] or [buffer_for(pool)[:0]]
    inside = sum(part[1] for part in parts)
    keys = np.concatenate(collected) if inside <= pool.n // CAP else collected[0][:0]
    return sum(part[0] for part in parts), inside, keys, max(part[3] for part in parts)


def equal_per_piece(pool: Pool, key: int) -> list[int]:
    """Number of keys equal to the given one, for each piece."""

    def work(pieces: list[Tensor]) -> list[int]:
        buffer = buffer_for(pool)
        return [how_many(keys_of(piece, pool.dtype, buffer) == key) for piece in pieces]

    return [number for part in share_out(pool.pieces, pool.n, work) for number in part]


def _count_equal(pool: Pool, key: int) -> int:
    """Number of keys equal to the given one."""
    return sum(equal_per_piece(pool, key)) if 0 <= key <= pool.infinity else 0


def _radix(pool: Pool, k: int) -> Choice:
    """The k-th smallest key by histograms of 16 bits at a time: slower, exact on any data."""
    prefix, less, equal = 0, 0, 0
    for shift in range(8 * pool.dtype.itemsize - 16, -1, -16):
        histogram = np.zeros(1 << 16, dtype=np.int64)
        for piece in pool.pieces:
            keys = keys_of(piece, pool.dtype)
            native_keys = isinstance(keys, np.ndarray)
            keys = (keys.astype(np.int64) if native_keys else keys.long()) >> shift
            ops: Any = np if native_keys else torch
            histogram += host(ops.bincount(keys[keys >> 16 == prefix] & 0xFFFF, minlength=1 << 16))
        reached = histogram.cumsum()
        digit = int(np.searchsorted(reached, k - less))
        equal = int(histogram[digit])
        less += int(reached[digit]) - equal
        prefix = prefix << 16 | digit
    return Choice(prefix, less, equal)
