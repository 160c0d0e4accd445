"""One bit per weight, and the values that are kept: from a third of zeros on."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.sparse import packing
from steppe.sparse.format import FORMATS
from steppe.sparse.layouts import BITS
from steppe.sparse.packed import PackedFormat
from steppe.sparse.packing import Packed
from steppe.sparse.reference import Source


@FORMATS.register("bits")
@dataclass(frozen=True, eq=False)
class Bits(PackedFormat):
    """A bit per weight; four rows and 32 columns lie together.

    Bytes: rows * columns * (1 / 8 + (1 - sparsity) * bytes of a value).

    Args:
        where: int32 ``[groups, chunks, 4]``, bit j of the chunk c is column 32 c + j.
        values: kept ones by group, chunk, row, column, and padding.
        starts: int64 ``[groups + 1]``.
        scale: float32 ``[rows]`` for values of 8 bits, else None.
        rows: outputs.
        columns: inputs.
        dtype: of the dense matrix.

    Example:
        >>> import torch
        >>> weight = torch.eye(64)
        >>> matrix = Bits.from_dense(weight)
        >>> torch.equal(matrix.to_dense(), weight), matrix.stored, matrix.sparsity
        (True, torch.bfloat16, 0.984375)
        >>> matrix.linear(torch.ones(1, 64), None).sum().item()
        64.0
        >>> Bits.from_dense(torch.rand(8, 8), values="int8").exact
        False
    """

    name = "bits"
    layout = BITS

    @classmethod
    def pack(cls, source: Source) -> Packed:
        """The three tensors of a matrix."""
        return packing.bits(source)
