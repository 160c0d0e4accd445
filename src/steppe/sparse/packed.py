"""What the formats share that pack their values in a layout of the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.mask import pack
from steppe.sparse import ops
from steppe.sparse.checks import Matrix, check_compact
from steppe.sparse.format import FLOATS, Format, check_dtype, check_matrix, holds, narrowed
from steppe.sparse.layouts import CPU, Layout, portion
from steppe.sparse.native.interface import PADDING
from steppe.sparse.packing import Packed
from steppe.sparse.reference import Source, integers

_INT8 = 127.0


@dataclass(frozen=True, eq=False)
class PackedFormat(Format):
    """Kept values, where they are, and where each row or group of rows begins.

    Args:
        where: which columns are kept.
        values: what is kept, in the order of the layout, and padding.
        starts: of the rows or groups in ``values``.
        scale: one number per row, for values of 8 bits; else None.
        rows: outputs.
        columns: inputs.
        dtype: of the dense matrix.
    """

    layout: ClassVar[Layout]
    padding: ClassVar[int] = PADDING
    """Elements behind the values."""
    eight_bits: ClassVar[bool] = True
    """Whether values may be int8."""
    floats: ClassVar[tuple[torch.dtype, ...]] = FLOATS
    """What other values may be."""

    where: Tensor
    values: Tensor
    starts: Tensor
    scale: Tensor | None
    rows: int
    columns: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if torch.compiler.is_compiling():  # then it is another one's twin
            return
        wrong = self._wrong()
        if wrong:
            raise SteppeError(
                f"the parts of {self.name} must be those of one matrix of {self.rows} x "
                f"{self.columns}",
                got=wrong,
                consequence="kernels would read what is not theirs",
                way_out="from_dense or from_compact; for a layer without numbers (to_empty), the "
                "dense one, packed after its weights are loaded",
            )

    def _wrong(self) -> str:
        """Why the parts do not belong together; or empty."""
        tensors = list(self.tensors().values())
        if not all(t.is_contiguous() and t.device == self.values.device for t in tensors):
            return "tensors on several devices, or with gaps"
        stored = (torch.int8,) if self.scale is not None else self.floats
        if self.kept < 0 or self.values.dim() != 1 or self.stored not in stored:
            return f"values of {list(self.values.shape)} in {self.stored}"
        scale = self.scale
        if scale is not None and (scale.dtype, scale.shape) != (torch.float32, (self.rows,)):
            return f"a scale of {list(scale.shape)} in {scale.dtype}"
        parts = self.where, self.values, self.starts
        return self.layout.wrong(parts, self.padding, self.rows, self.columns)

    @classmethod
    def pack(cls, source: Source) -> Packed:
        """The three tensors of a matrix."""
        raise NotImplementedError

    @classmethod
    def stored_as(cls, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Values in the dtype that they are stored in, for a dense matrix of ``dtype``."""
        return narrowed(values)

    @classmethod
    def _of(cls, source: Source, dtype: torch.dtype, scale: Tensor | None = None) -> Self:
        where, values, starts = cls.pack(source)
        values = cls.stored_as(values, dtype)
        return cls(where, values, starts, scale, source.rows, source.columns, dtype)

    @classmethod
    def from_dense(cls, weight: Tensor, values: str | None = None) -> Self:
        """Of a matrix.

        Args:
            weight: float32, bfloat16 or float16.
            values: ``int8`` stores 8 bits and a scale per row, which is not exact; None what is
                exact.

        Raises:
            SteppeError: another dtype, or int8 for numbers that are not finite.
        """
        check_matrix(cls.name, weight)
        weight = weight.detach()
        if values is None:
            return cls._of(Source.dense(weight), weight.dtype)
        if values != "int8" or not cls.eight_bits or not torch.isfinite(weight).all():
            raise SteppeError(
                "values are stored as they are (None), or finite ones as int8 in bits and index",
                got=f"{values!r} in {cls.name}",
                way_out="leave values out",
            )
        kept = integers(weight) != 0
        scale = weight.abs().amax(1).float() / _INT8
        step = torch.where(scale > 0, scale, torch.ones_like(scale))
        rounded = (weight.float() / step[:, None]).round().to(torch.int8)
        mask = pack({"w": kept})["w.bits"].to(weight.device)
        return cls._of(
            Source(weight.shape[0], weight.shape[1], rounded[kept], mask), weight.dtype, scale
        )

    @classmethod
    def from_compact(
        cls, bits: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype | None = None
    ) -> Self:
        """See `Format.from_compact`.

        Example:
            >>> from steppe.llm.compact import compress
            >>> from steppe.sparse.format import FORMATS
            >>> stored = compress("w", torch.eye(64))
            >>> parts = stored["w.bits"], stored["w.values"]
            >>> matrix = FORMATS["bits"].from_compact(*parts, (64, 64))
            >>> torch.equal(matrix.to_dense(), torch.eye(64))
            True
        """
        check_compact("a matrix", bits, values, shape)
        check_matrix(cls.name, values.view(1, -1))
        dtype = values.dtype if dtype is None else dtype
        if not holds(dtype, values.dtype):
            values = values.to(dtype)
        mask = bits.cpu().contiguous()  # where it is read
        return cls._of(Source(*shape, values.contiguous(), mask), dtype)

    @classmethod
    def quick(cls, device: torch.device = CPU) -> bool:
        """Whether it is more than unpacked on a device."""
        return cls.layout.quick(device)

    @property
    def _matrix(self) -> Matrix:
        return self.where, self.values, self.starts, self.scale, self.rows, self.columns

    @property
    def kept(self) -> int:
        """Entries that are stored."""
        return self.values.numel() - self.padding

    @property
    def exact(self) -> bool:
        """Whether the dense matrix comes back bit for bit: not from 8 bits."""
        return self.scale is None

    @property
    def stored(self) -> torch.dtype:
        """What the values are stored in."""
        return self.values.dtype

    def to_dense(self) -> Tensor:
        """The matrix."""
        dense = torch.empty(self.rows, self.columns, dtype=self.dtype, device=self.values.device)
        step = portion(self.columns, self.dtype, self.values.device)
        for first in range(0, self.rows, step):
            last = min(first + step, self.rows)
            tile = self.layout.unpack(self._matrix, first, last)
            if (tile.dtype, self.dtype) == (torch.bfloat16, torch.float32):
                # a conversion may turn one NaN into another; a shift does not
                tile = (tile.view(torch.int16).int() << 16).view(torch.float32)
            dense[first:last] = tile
        return dense

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """y = x W^T + b in x's dtype."""
        return ops.linear(self.name, x, bias, self._matrix)

    def to(self, dtype: torch.dtype) -> Self:
        """The same matrix in another dtype; values are stored anew only where they must be."""
        check_dtype(self.name, dtype)
        values = self.values if holds(dtype, self.stored) else self.values.to(dtype)
        return self.replaced(values=values, dtype=dtype)

    def repacked(self, weight: Tensor) -> Self:
        """Another matrix in the same form."""
        return self.from_dense(weight, None if self.exact else "int8")
