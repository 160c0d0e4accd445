"""What must hold before a kernel follows an address: sizes, devices, where each row begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.sparse.native.interface import CHUNK, ROWS, TILE

Matrix = tuple[Tensor, Tensor, Tensor, Tensor | None, int, int]
"""where, values, starts, scale, rows, columns; see `steppe.sparse.packed.PackedFormat`."""
Parts = tuple[Tensor, Tensor, Tensor]
"""where, values, starts."""
_PIECE = 1 << 16
"""Words whose bits are counted at once."""


def check_product(x: Tensor, bias: Tensor | None, matrix: Matrix) -> None:
    """Whether y = x W^T + b can be computed; some comparisons of integers, as it is asked often.

    Args:
        x: ``[..., columns]``.
        bias: ``[rows]`` or None.
        matrix: ``[rows, columns]``, packed.

    Raises:
        SteppeError: sizes or devices differ, or there are other numbers than floats.

    Example:
        >>> from steppe.sparse.format import FORMATS
        >>> FORMATS["bits"].from_dense(torch.eye(4)).linear(torch.ones(1, 3), None)
        Traceback (most recent call last):
        steppe.core.errors.SteppeError: x must be floats of 4 columns for a matrix of 4 x 4 on \
cpu; got float32 of [1, 3] on cpu. Way out: take the x that the dense layer would take
    """
    _check_input("x", x, matrix[5], matrix)
    if bias is not None and (
        bias.dim() != 1
        or bias.size(0) != matrix[4]
        or not bias.is_floating_point()
        or bias.device != x.device
    ):
        raise SteppeError(
            f"a bias must be one float for each of {matrix[4]} rows, on x's device ({x.device})",
            got=_said(bias),
            way_out="take the bias that the dense layer would have",
        )


def check_gradient(g: Tensor, matrix: Matrix) -> None:
    """Whether g W can be computed, g ``[..., rows]``.

    Raises:
        SteppeError: it cannot, as in `check_product`.
    """
    _check_input("g", g, matrix[4], matrix)


def _check_input(name: str, x: Tensor, size: int, matrix: Matrix) -> None:
    if (
        not x.dim()
        or x.size(-1) != size
        or not x.is_floating_point()
        or x.device != matrix[1].device
    ):
        raise SteppeError(
            f"{name} must be floats of {size} columns for a matrix of {matrix[4]} x {matrix[5]} "
            f"on {matrix[1].device}",
            got=_said(x),
            way_out=f"take the {name} that the dense layer would take",
        )


def _said(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind} of {list(tensor.shape)} on {tensor.device}"


def check_compact(name: str, bits: Tensor, values: Tensor, shape: Sequence[int]) -> None:
    """Whether bits and values are those of a matrix; nothing of its size is made.

    Args:
        name: what the error calls it.
        bits: as `steppe.core.mask.pack` writes them.
        values: those whose bit is set.
        shape: of the matrix.

    Raises:
        SteppeError: they are not.

    Example:
        >>> check_compact("w", torch.tensor([0b11000000], dtype=torch.uint8), torch.ones(1), (1, 3))
        Traceback (most recent call last):
        steppe.core.errors.SteppeError: w must have one bit for each of its [1, 3] weights and one \
value for each bit that is set; got 2 bits that are set, and 1 values. It cannot be unpacked. Way \
out: copy the file again, or make it anew: steppe export RUN --to compact --out FOLDER
    """
    wrong = _wrong_in_compact(bits, values, shape)
    if wrong:
        raise SteppeError(
            f"{name} must have one bit for each of its {list(shape)} weights and one value for "
            "each bit that is set",
            got=wrong,
            consequence="it cannot be unpacked",
            way_out="copy the file again, or make it anew: steppe export RUN --to compact "
            "--out FOLDER",
        )


def _wrong_in_compact(bits: Tensor, values: Tensor, shape: Sequence[int]) -> str:
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        return "a shape that is none"
    entries = 1
    for size in shape:
        entries *= size
    octets = -(-entries // 8)
    if bits.dtype != torch.uint8 or list(bits.shape) != [octets]:
        return f"{str(bits.dtype).removeprefix('torch.')} of {list(bits.shape)}, not {octets} bytes"
    if values.dim() != 1:
        return f"values of {values.dim()} dimensions"
    if entries % 8 and int(bits[-1]) & (0xFF >> entries % 8):
        return "bits that are set behind the last weight"
    count = _set_bits(bits.contiguous())
    if count != len(values):
        return f"{count} bits that are set, and {len(values)} values"
    return ""


def _set_bits(octets: Tensor) -> int:
    """How many are 1."""
    whole = len(octets) // 4 * 4
    aligned = octets[:whole]
    if aligned.storage_offset() % 4:
        aligned = aligned.clone()
    words = aligned.view(torch.int32)
    rest = torch.zeros(4, dtype=torch.uint8, device=octets.device)
    rest[: len(octets) - whole] = octets[whole:]
    pieces = (*words.split(_PIECE), rest.view(torch.int32))
    return sum(int(ones(piece).sum()) for piece in pieces)


def ones(words: Tensor) -> Tensor:
    """How many bits of each int32 are 1.

    Example:
        >>> ones(torch.tensor([0, 1, 6, -1], dtype=torch.int32)).tolist()
        [0, 1, 2, 32]
    """
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return (words * 0x01010101) >> 24


def wrong_in_bits(parts: Parts, padding: int, rows: int, columns: int) -> str:
    """What the kernels would trip over in the layout *bits*; empty where nothing is wrong.

    Args:
        parts: where, values, starts.
        padding: elements behind the values.
        rows: outputs.
        columns: inputs.
    """
    where, values, starts = parts
    entries = len(values) - padding
    groups, chunks = -(-rows // ROWS), -(-columns // CHUNK)
    if not _is(where, torch.int32, [groups, chunks, ROWS]):
        return f"where is {_said(where)}"
    if not _is(starts, torch.int64, [groups + 1]):
        return f"starts is {_said(starts)}"
    if not _readable(*parts):
        return ""
    if groups and chunks and _set_outside(where, rows % ROWS, columns % CHUNK):
        return "bits that are set outside of the matrix"
    step, total = max(_PIECE // max(chunks * ROWS, 1), 1), 0
    for first in range(0, groups, step):
        counts = ones(where[first : first + step]).sum((1, 2)).cumsum(0) + total
        last = min(first + step, groups)
        if int(starts[first]) != total or not torch.equal(starts[first + 1 : last + 1], counts):
            return "starts that are not the sums of the bits"
        total = int(counts[-1])
    return "" if total == entries == int(starts[-1]) else f"{entries} values, not {total}"


def _set_outside(where: Tensor, last_rows: int, last_columns: int) -> bool:
    beside = where[:, -1] >> last_columns if last_columns else where[:0]
    below = where[-1, :, last_rows:] if last_rows else where[:0]
    return bool(beside.any()) or bool(below.any())


def wrong_in_index(parts: Parts, padding: int, rows: int, columns: int) -> str:
    """The same for the layout *index*."""
    where, values, starts = parts
    entries = len(values) - padding
    tiles = -(-columns // TILE)
    if not _is(where, torch.int16, [len(values)]):
        return f"where is {_said(where)}"
    if not _is(starts, torch.int64, [tiles, rows + 1] if tiles else [0, 0]):
        return f"starts is {_said(starts)}"
    if not _readable(*parts):
        return ""
    if not tiles:
        return f"{entries} values of no columns" if entries else ""
    if not torch.equal(starts[1:, 0], starts[:-1, -1]):
        return "tiles that do not follow one another"
    wrong = _wrong_starts(starts.view(-1), entries)
    bounds = [] if wrong else [*starts[:, 0].tolist(), entries]
    for tile, (begin, end) in enumerate(pairwise(bounds)):
        wrong = wrong or _wrong_columns(where[begin:end], min(columns - tile * TILE, TILE))
    return wrong


def wrong_in_rows(parts: Parts, padding: int, rows: int, columns: int) -> str:
    """The same for torch's compressed rows."""
    where, values, starts = parts
    if not _is(where, torch.int32, [len(values)]):
        return f"where is {_said(where)}"
    if not _is(starts, torch.int32, [rows + 1]):
        return f"starts is {_said(starts)}"
    if not _readable(*parts):
        return ""
    return _wrong_starts(starts, len(values) - padding) or _wrong_columns(where, columns)


def _is(tensor: Tensor, dtype: torch.dtype, shape: list[int]) -> bool:
    return tensor.dtype == dtype and list(tensor.shape) == shape


def _readable(*tensors: Tensor) -> bool:
    """Whether there are numbers: not on *meta*, not while torch traces."""
    return all(type(t) in (Tensor, torch.nn.Parameter) and not t.is_meta for t in tensors)


def _wrong_starts(starts: Tensor, entries: int) -> str:
    if int(starts[0]) or int(starts[-1]) != entries or bool((starts[1:] < starts[:-1]).any()):
        return f"starts that do not grow from 0 to {entries}"
    return ""


def _wrong_columns(columns: Tensor, width: int) -> str:
    least, most = map(int, torch.aminmax(columns)) if len(columns) else (0, 0)
    outside = len(columns) and (least < 0 or most >= width)
    return f"the column {least if least < 0 else most} of {width}" if outside else ""
