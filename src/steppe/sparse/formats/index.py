"""A 16-bit column beside each value: for the sparsest matrices."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.sparse import packing
from steppe.sparse.format import FORMATS
from steppe.sparse.layouts import INDEX
from steppe.sparse.packed import PackedFormat
from steppe.sparse.packing import Packed
from steppe.sparse.reference import Source


@FORMATS.register("index")
@dataclass(frozen=True, eq=False)
class Index(PackedFormat):
    """The column of each kept value, within a tile of some thousand columns.

    Bytes: rows * columns * (1 - sparsity) * (2 + bytes of a value), and 8 per row of a
    tile.

    Args:
        where: int16 that is read without sign: the column within the tile, increasing in a row.
        values: kept ones by tile, row, column, and padding.
        starts: int64 ``[tiles, rows + 1]``.
        scale: float32 ``[rows]`` for values of 8 bits, else None.
        rows: outputs.
        columns: inputs.
        dtype: of the dense matrix.

    Example:
        >>> import torch
        >>> weight = torch.eye(64)
        >>> matrix = Index.from_dense(weight)
        >>> torch.equal(matrix.to_dense(), weight), matrix.kept
        (True, 64)
    """

    name = "index"
    layout = INDEX

    @classmethod
    def pack(cls, source: Source) -> Packed:
        """The three tensors of a matrix."""
        return packing.index(source)
