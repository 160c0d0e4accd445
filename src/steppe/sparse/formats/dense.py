"""Every number, zeros too: where no other format is faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from steppe.sparse.checks import check_compact
from steppe.sparse.format import FORMATS, Format, check_matrix
from steppe.sparse.reference import Source, integers


@FORMATS.register("dense")
@dataclass(frozen=True, eq=False)
class Dense(Format):
    """The matrix as torch has it.

    Args:
        matrix: ``[rows, columns]``.

    Example:
        >>> matrix = Dense.from_dense(torch.eye(4))
        >>> matrix.bytes, matrix.sparsity
        (64, 0.75)
    """

    matrix: Tensor

    name = "dense"

    @property
    def rows(self) -> int:  # type: ignore[override]
        """Outputs."""
        return self.matrix.shape[0]

    @property
    def columns(self) -> int:  # type: ignore[override]
        """Inputs."""
        return self.matrix.shape[1]

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Of the matrix."""
        return self.matrix.dtype

    @classmethod
    def from_dense(cls, weight: Tensor) -> Self:
        """Of a matrix."""
        check_matrix(cls.name, weight)
        return cls(weight.detach())

    @classmethod
    def from_compact(
        cls, bits: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype | None = None
    ) -> Self:
        """See `Format.from_compact`."""
        check_compact("a matrix", bits, values, shape)
        check_matrix(cls.name, values.view(1, -1))
        matrix = torch.zeros(shape, dtype=dtype or values.dtype, device=values.device)
        first = 0
        for kept, own in Source(*shape, values, bits).portions():
            integers(matrix[first : first + len(kept)])[kept] = integers(own.to(matrix.dtype))
            first += len(kept)
        return cls(matrix)

    @property
    def kept(self) -> int:
        """Entries with a bit set."""
        return int(torch.count_nonzero(integers(self.matrix)))

    def to_dense(self) -> Tensor:
        """The matrix itself."""
        return self.matrix

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """y = x W^T + b."""
        return nn.functional.linear(x, self.matrix, bias)

    def to(self, dtype: torch.dtype) -> Self:
        """The same matrix in another dtype."""
        return self.replaced(matrix=self.matrix.to(dtype))
