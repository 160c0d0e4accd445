"""The layout *bits* multiplied and unpacked by programs of Triton; see native/steppe_sparse.h.

This module imports triton, so it is itself imported late (`steppe.sparse.triton.bits`). A program
walks one group of four rows, some chunks of 32 columns at a time. Where a value lies follows from
the bits alone: the values before the group (``starts``), before the word (a sum over the words
walked so far) and before the bit (the ones below it in its word). So a program reads its bits and
values once and in order, and nothing else is kept for a GPU.
"""

# what triton compiles has no types of Python
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ones(words):
    """How many bits of each uint32 are set; compilers know these lines as one instruction."""
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return ((words * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def walked(bits, group, first, chunks, CHUNKS: tl.constexpr):
    """Some chunks of a group: what is kept, each one's place after the first, and how many.

    Returns:
        bool ``[4 * CHUNKS, 32]``, int32 ``[4 * CHUNKS, 32]``, int32.
    """
    word = tl.arange(0, 4 * CHUNKS)
    lane = tl.arange(0, 32).to(tl.uint32)[None, :]
    own = bits + group.to(tl.int64) * chunks * 4 + first * 4
    words = tl.load(own + word, mask=word < (chunks - first) * 4, other=0)
    words = words.to(tl.uint32, bitcast=True)
    counts = ones(words)
    before = tl.cumsum(counts, 0) - counts
    words = words[:, None]
    kept = ((words >> lane) & 1) != 0
    below = (tl.full([1, 32], 1, tl.uint32) << lane) - 1
    return kept, before[:, None] + ones(words & below), tl.sum(counts, 0)


@triton.jit
def bits_linear(
    x,
    bits,
    values,
    starts,
    scale,
    bias,
    y,
    tokens,
    rows,
    columns,
    chunks,
    TOKENS: tl.constexpr,
    CHUNKS: tl.constexpr,
    SCALED: tl.constexpr,
    BIASED: tl.constexpr,
):
    """y = x W^T + b of one group's rows, summed in float32 and rounded once.

    Zeros are multiplied too: zero times infinity is NaN, as it is with a dense matrix.
    """
    group = tl.program_id(0)
    word = tl.arange(0, 4 * CHUNKS)
    lane = tl.arange(0, 32)
    token = tl.arange(0, TOKENS)
    there = token < tokens
    base = tl.load(starts + group)
    sums = tl.zeros([TOKENS, 4 * CHUNKS, 32], tl.float32)
    for first in range(0, chunks, CHUNKS):
        kept, place, count = walked(bits, group, first, chunks, CHUNKS)
        value = tl.load(values + base + place, mask=kept, other=0).to(tl.float32)
        column = (first + word // 4)[:, None] * 32 + lane[None, :]
        inputs = tl.load(
            x + token[:, None, None] * columns + column[None, :, :],
            mask=there[:, None, None] & (column < columns)[None, :, :],
            other=0,
        )
        sums += inputs.to(tl.float32) * value[None, :, :]
        base += count
    total = tl.sum(tl.sum(tl.reshape(sums, [TOKENS, CHUNKS, 4, 32]), 3), 1)
    row = group * 4 + tl.arange(0, 4)
    real = row < rows
    if SCALED:
        total *= tl.load(scale + row, mask=real, other=0)[None, :]
    if BIASED:
        total += tl.load(bias + row, mask=real, other=0).to(tl.float32)[None, :]
    place = token[:, None].to(tl.int64) * rows + row[None, :]
    tl.store(y + place, total.to(y.dtype.element_ty), mask=there[:, None] & real[None, :])


@triton.jit
def bits_unpack(
    bits,
    values,
    starts,
    scale,
    out,
    first_row,
    last_row,
    columns,
    chunks,
    CHUNKS: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Rows of the dense matrix; without a scale values are moved as integers, bit for bit."""
    group = first_row // 4 + tl.program_id(0)
    word = tl.arange(0, 4 * CHUNKS)
    lane = tl.arange(0, 32)
    row = (group * 4 + word % 4)[:, None]
    real = (row >= first_row) & (row < last_row)
    base = tl.load(starts + group)
    for first in range(0, chunks, CHUNKS):
        kept, place, count = walked(bits, group, first, chunks, CHUNKS)
        value = tl.load(values + base + place, mask=kept, other=0)
        if SCALED:
            value = value.to(tl.float32) * tl.load(scale + row, mask=real, other=0)
        column = (first + word // 4)[:, None] * 32 + lane[None, :]
        there = (row - first_row).to(tl.int64) * columns + column
        tl.store(out + there, value, mask=real & (column < columns))
        base += count
