"""The layouts *bits* and *index* written and read with torch alone, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steppe.sparse.native.interface import CHUNK, PADDING, ROWS, TILE

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""What shows the bits of an element of so many bytes."""


def integers(tensor: Tensor) -> Tensor:
    """The bits of each element: what moves floats may turn one NaN into another.

    Example:
        >>> integers(torch.tensor([-0.0, 1.0])).tolist()
        [-2147483648, 1065353216]
    """
    return tensor.view(INTEGERS[tensor.element_size()])


PORTION = 1 << 20
"""Weights that are in memory densely at once."""


@dataclass(frozen=True)
class Source:
    """A matrix to be packed: dense, or its kept values in row order beside one bit per weight.

    Kept is what has a bit set, so that -0.0 survives.

    Args:
        rows: outputs.
        columns: inputs.
        values: ``[rows, columns]``, contiguous; or, with a mask, one dimension.
        mask: eight weights to a byte, the first in the highest bit (`steppe.core.mask.pack`).

    Example:
        >>> source = Source.dense(torch.eye(2))
        >>> [(kept.tolist(), values.tolist()) for kept, values in source.portions()]
        [([[True, False], [False, True]], [1.0, 1.0])]
    """

    rows: int
    columns: int
    values: Tensor
    mask: Tensor | None = None

    @classmethod
    def dense(cls, weight: Tensor) -> Source:
        """Of a matrix."""
        return cls(weight.shape[0], weight.shape[1], weight.detach().contiguous())

    def portions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(what is kept ``[some rows, columns]``, its values in row order), whole groups each."""
        step = ROWS * max(PORTION // max(ROWS * self.columns, 1), 1)
        taken = 0
        for first in range(0, self.rows, step):
            last = min(first + step, self.rows)
            if self.mask is None:
                tile = self.values[first:last]
                kept = integers(tile) != 0
                yield kept, tile[kept]
                continue
            kept = self._unpacked(first * self.columns, last * self.columns)
            count = int(kept.sum())
            yield kept.view(last - first, self.columns), self.values[taken : taken + count]
            taken += count

    def _unpacked(self, first: int, last: int) -> Tensor:
        """Some of the mask, flat."""
        assert self.mask is not None
        begin = first // 8
        octets = self.mask[begin : -(-last // 8)].cpu().numpy()
        flat = np.unpackbits(octets)[first - 8 * begin : last - 8 * begin]
        return torch.from_numpy(flat.astype(bool)).to(self.values.device)


def without_zeros(mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Bits and values of the same matrix, where no stored value is 0 or -0.0.

    Example:
        >>> mask, values = torch.tensor([0b11100000], dtype=torch.uint8), torch.tensor([1, -0.0, 2])
        >>> without_zeros(mask, values)
        (tensor([160], dtype=torch.uint8), tensor([1., 2.]))
    """
    stays = values != 0
    flags, octets = stays.cpu().numpy(), mask.cpu().numpy().copy()
    taken, step = 0, PORTION // 8
    for first in range(0, len(octets), step):
        bits = np.unpackbits(octets[first : first + step])
        kept = bits.astype(bool)
        count = int(kept.sum())
        bits[kept] = flags[taken : taken + count]
        octets[first : first + step] = np.packbits(bits)
        taken += count
    return torch.from_numpy(octets), values[stays]


def padded(parts: list[Tensor], like: Tensor) -> Tensor:
    """All parts one after the other, and what may be read behind them."""
    return torch.cat([*parts, like.new_zeros(PADDING)])


def sums(counts: Tensor) -> Tensor:
    """0 and the sums of the first 1, 2, ...

    Example:
        >>> sums(torch.tensor([2, 0, 3])).tolist()
        [0, 2, 2, 5]
    """
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _grouped(tile: Tensor) -> Tensor:
    """``[rows, columns]`` -> ``[groups, chunks, 4, 32]``, with zeros where there are none."""
    rows, columns = tile.shape
    groups, chunks = -(-rows // ROWS), -(-columns // CHUNK)
    whole = tile.new_zeros(groups * ROWS, chunks * CHUNK)
    whole[:rows, :columns] = tile
    return whole.view(groups, ROWS, chunks, CHUNK).transpose(1, 2)


def bits_pack(source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """Bits ``[groups, chunks, 4]`` of int32, values with padding, offsets ``[groups + 1]``.

    Example:
        >>> bits, values, offsets = bits_pack(Source.dense(torch.tensor([[0.0, 2.0], [3.0, 0.0]])))
        >>> bits.tolist(), values[:2].tolist(), offsets.tolist()
        ([[[2, 1, 0, 0]]], [2.0, 3.0], [0, 2])
    """
    device = source.values.device
    place = torch.ones((), dtype=torch.int64, device=device) << torch.arange(CHUNK, device=device)
    bits, values, counts = [], [], []
    for kept, own in source.portions():
        tile = own.new_zeros(kept.shape)
        integers(tile)[kept] = integers(own)
        kept = _grouped(kept)
        words = (kept * place).sum(-1)
        bits.append((words - (words >> 31 << 32)).to(torch.int32))
        values.append(_grouped(tile)[kept])
        counts.append(kept.sum((1, 2, 3)))
    empty = torch.zeros(0, dtype=torch.int64, device=device)
    chunks = -(-source.columns // CHUNK)
    words = torch.zeros(0, chunks, ROWS, dtype=torch.int32, device=device)
    return (
        torch.cat([words, *bits]),
        padded(values, source.values),
        sums(torch.cat([empty, *counts])),
    )


def bits_unpack(
    bits: Tensor, values: Tensor, offsets: Tensor, columns: int, first: int, last: int
) -> Tensor:
    """Rows ``first`` to ``last`` of a matrix that `bits_pack` wrote."""
    start, end = first // ROWS, -(-last // ROWS)
    place = torch.arange(CHUNK, dtype=torch.int32, device=bits.device)
    kept = ((bits[start:end, ..., None] >> place) & 1).bool()
    begin, stop = (int(offsets[i]) for i in (start, end))
    tile = values.new_zeros(kept.shape)
    integers(tile)[kept] = integers(values[begin:stop])
    whole = tile.transpose(1, 2).reshape((end - start) * ROWS, bits.shape[1] * CHUNK)
    return whole[first - start * ROWS : last - start * ROWS, :columns]


def index_pack(source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """Columns (int16, to be read without sign), values, both padded, starts ``[tiles, rows + 1]``.

    Example:
        >>> packed = index_pack(Source.dense(torch.tensor([[0.0, 2.0], [3.0, 0.0]])))
        >>> [part[:3].tolist() for part in (packed[0][:2], packed[1][:2], packed[2][0])]
        [[1, 0], [2.0, 3.0], [0, 1, 2]]
    """
    tiles = -(-source.columns // TILE)
    columns: list[list[Tensor]] = [[] for _ in range(tiles)]
    values: list[list[Tensor]] = [[] for _ in range(tiles)]
    counts: list[list[Tensor]] = [[] for _ in range(tiles)]
    for kept, own in source.portions():
        column = kept.nonzero()[:, 1]
        for tile in range(tiles):
            inside = column // TILE == tile
            columns[tile].append((column[inside] - tile * TILE).to(torch.int32).to(torch.int16))
            values[tile].append(own[inside])
            counts[tile].append(kept[:, tile * TILE : (tile + 1) * TILE].sum(1))
    empty = torch.zeros(0, dtype=torch.int64, device=source.values.device)
    totals = [torch.cat([empty, *own]) for own in counts]
    starts, begin = [], 0
    for own in totals:
        starts.append(begin + sums(own))
        begin += int(own.sum())
    return (
        padded([part for own in columns for part in own], empty.to(torch.int16)),
        padded([part for own in values for part in own], source.values),
        torch.stack(starts) if starts else empty.view(0, 0),
    )


def index_unpack(
    columns_of: Tensor, values: Tensor, starts: Tensor, columns: int, first: int, last: int
) -> Tensor:
    """Rows ``first`` to ``last`` of a matrix that `index_pack` wrote."""
    whole = values.new_zeros(last - first, columns)
    rows = torch.arange(last - first, device=values.device)
    for tile, own in enumerate(starts):
        begin, stop = int(own[first]), int(own[last])
        row = rows.repeat_interleave(own[first : last + 1].diff())
        column = (columns_of[begin:stop].to(torch.int64) & 0xFFFF) + tile * TILE
        integers(whole)[row, column] = integers(values[begin:stop])
    return whole


def compressed_rows(source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """Columns (int32), values, starts ``[rows + 1]`` (int32), without padding.

    Example:
        >>> packed = compressed_rows(Source.dense(torch.tensor([[0.0, 2.0], [3.0, 0.0]])))
        >>> [part.tolist() for part in packed]
        [[1, 0], [2.0, 3.0], [0, 1, 2]]
    """
    none = torch.zeros(0, dtype=torch.int32, device=source.values.device)
    counts, columns, values = [none], [none], [source.values.new_zeros(0)]
    for kept, own in source.portions():
        counts.append(kept.sum(1).int())
        columns.append(kept.nonzero()[:, 1].int())
        values.append(own)
    return torch.cat(columns), torch.cat(values), sums(torch.cat(counts)).int()
