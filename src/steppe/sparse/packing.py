"""Packing into a layout: with the kernels' own functions where there are some, else with torch."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.sparse import reference
from steppe.sparse.native.interface import CHUNK, PADDING, ROWS, TILE
from steppe.sparse.native.interface import Source as SourceArguments
from steppe.sparse.native.library import Library, library
from steppe.sparse.reference import Source, sums

Packed = tuple[Tensor, Tensor, Tensor]
"""Where the kept values are, the values, and where each row or group of rows begins."""


def bits(source: Source) -> Packed:
    """As `steppe.sparse.reference.bits_pack`."""
    native = _library_for(source)
    if native is None:
        return reference.bits_pack(source)
    arguments, counts, _row_starts = _counted(native, source)
    groups = -(-source.rows // ROWS)
    rows = counts.new_zeros(groups * ROWS)
    rows[: source.rows] = counts.sum(0)
    offsets = sums(rows.view(groups, ROWS).sum(1))
    words = torch.zeros(groups, -(-source.columns // CHUNK), ROWS, dtype=torch.int32)
    values = source.values.new_zeros(int(offsets[-1]) + PADDING)
    threads = torch.get_num_threads()
    native.bits_pack(arguments, offsets.data_ptr(), words.data_ptr(), values.data_ptr(), threads)
    return words, values, offsets


def index(source: Source) -> Packed:
    """As `steppe.sparse.reference.index_pack`."""
    native = _library_for(source)
    if native is None:
        return reference.index_pack(source)
    arguments, counts, _row_starts = _counted(native, source)
    begins = sums(counts.sum(1))[:-1, None]
    starts = torch.stack([sums(own) for own in counts]) + begins
    entries = int(counts.sum()) + PADDING
    columns = torch.zeros(entries, dtype=torch.int16)
    values = source.values.new_zeros(entries)
    threads = torch.get_num_threads()
    native.index_pack(arguments, starts.data_ptr(), columns.data_ptr(), values.data_ptr(), threads)
    return columns, values, starts


def _library_for(source: Source) -> Library | None:
    native = library() if source.values.is_cpu else None
    return native if source.rows and source.columns else None


def _counted(native: Library, source: Source) -> tuple[SourceArguments, Tensor, Tensor]:
    """What the functions are told, entries in each row of each tile, where each row begins."""
    counts = torch.zeros(-(-source.columns // TILE), source.rows, dtype=torch.int64)
    mask = source.mask
    arguments = SourceArguments(
        source.rows,
        source.columns,
        source.values.element_size(),
        source.values.data_ptr(),
        None if mask is None else mask.data_ptr(),
        None,
    )
    native.count(arguments, counts.data_ptr(), torch.get_num_threads())
    row_starts = sums(counts.sum(0))
    if mask is not None:
        arguments.row_starts = row_starts.data_ptr()
    return arguments, counts, row_starts
