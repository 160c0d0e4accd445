"""torch's own compressed rows: what can be had without the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from steppe.sparse import reference
from steppe.sparse.format import FLOATS, FORMATS, check_dtype
from steppe.sparse.layouts import CSR
from steppe.sparse.packed import PackedFormat
from steppe.sparse.packing import Packed
from steppe.sparse.reference import Source


@FORMATS.register("csr")
@dataclass(frozen=True, eq=False)
class Csr(PackedFormat):
    """The column of each kept value in 32 bits; torch multiplies, in float32.

    Args:
        where: int32, the column of each value.
        values: kept ones by row.
        starts: int32 ``[rows + 1]``.
        scale: None.
        rows: outputs.
        columns: inputs.
        dtype: of the dense matrix.

    Example:
        >>> weight = torch.eye(64)
        >>> matrix = Csr.from_dense(weight)
        >>> torch.equal(matrix.to_dense(), weight), matrix.kept
        (True, 64)
    """

    name = "csr"
    layout = CSR
    padding = 0
    eight_bits = False
    floats = (*FLOATS, torch.float64)

    @classmethod
    def pack(cls, source: Source) -> Packed:
        """The three tensors of a matrix."""
        return reference.compressed_rows(source)

    @classmethod
    def stored_as(cls, values: Tensor, dtype: torch.dtype) -> Tensor:
        """As the dense matrix has them: torch would have to widen them for each product."""
        return values.to(dtype)

    def to(self, dtype: torch.dtype) -> Self:
        """The same matrix in another dtype."""
        check_dtype(self.name, dtype)
        return self.replaced(values=self.values.to(dtype), dtype=dtype)
