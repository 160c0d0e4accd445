"""How a packed matrix is multiplied and unpacked: by the kernels, or by torch."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from steppe.sparse import reference
from steppe.sparse.checks import Matrix, Parts, wrong_in_bits, wrong_in_index, wrong_in_rows
from steppe.sparse.native.interface import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    INT8,
    ROWS,
    BitsArguments,
    Call,
    IndexArguments,
)
from steppe.sparse.native.library import Library, library
from steppe.sparse.reference import integers
from steppe.sparse.triton import bits as gpu_bits

KERNEL_TOKENS = 64
"""Up to so many tokens the kernels multiply, 16 at once; of more, unpacking is the smaller part."""
SCRATCH = 8 << 20
"""Bytes of rows that are unpacked at once."""
GPU_SCRATCH = 128 << 20
"""The same on a GPU, which is idle while little is asked of it."""
CPU = torch.device("cpu")
TYPES = {
    torch.float32: FLOAT32,
    torch.bfloat16: BFLOAT16,
    torch.float16: FLOAT16,
    torch.int8: INT8,
}
"""How the kernels call a dtype."""

Rows = Callable[[Tensor, Tensor, Tensor, int, int, int], Tensor]
Wrong = Callable[[Parts, int, int, int], str]


class Layout(ABC):
    """A way to lay kept values out."""

    def quick(self, device: torch.device = CPU) -> bool:
        """Whether `multiply` ever multiplies on a device."""
        return True

    @abstractmethod
    def multiply(self, x: Tensor, bias: Tensor | None, matrix: Matrix) -> Tensor | None:
        """y = x W^T + b; None where this layout has no product for such an x."""

    @abstractmethod
    def unpack(self, matrix: Matrix, first: int, last: int) -> Tensor:
        """Rows of the dense matrix in the values' dtype; int8 becomes float32."""

    @abstractmethod
    def wrong(self, parts: Parts, padding: int, rows: int, columns: int) -> str:
        """Why these are not the parts of a matrix, with so much padding; or empty."""


@dataclass(frozen=True)
class Native(Layout):
    """A layout of the kernels, which torch can unpack too.

    Args:
        arguments: the structure of the C interface.
        order: in which it names where, values and starts.
        rows: some of the dense matrix, with torch alone.
        wrong_in: what the kernels would trip over.
        kernel: the function that multiplies.
        kernel_rows: the function that unpacks.
        gpu: the module with the same two for GPUs; None where there are none.
    """

    arguments: type[BitsArguments] | type[IndexArguments]
    order: tuple[int, int, int]
    rows: Rows
    wrong_in: Wrong
    kernel: Callable[[Library], Callable[[Any, Call], None]]
    kernel_rows: Callable[[Library], Callable[[Any, int, int, int, int], None]]
    gpu: Any = None

    def quick(self, device: torch.device = CPU) -> bool:
        """Whether there are kernels."""
        return self._on_gpu(device) if device.type != "cpu" else library() is not None

    def _on_gpu(self, device: torch.device) -> bool:
        return self.gpu is not None and bool(self.gpu.works_on(device))

    def multiply(self, x: Tensor, bias: Tensor | None, matrix: Matrix) -> Tensor | None:
        """By the kernel, if there is one and tokens are few."""
        rows, columns = matrix[4], matrix[5]
        tokens = x.numel() // max(columns, 1)  # x was checked
        kind = TYPES.get(x.dtype)
        if kind is None or not columns:
            return None
        if not x.is_cpu:
            if not self._on_gpu(x.device) or tokens > self.gpu.MOST_TOKENS:
                return None
            return self.gpu.linear(x, bias, matrix)  # type: ignore[no-any-return]
        native = library() if tokens <= KERNEL_TOKENS else None
        bias_kind = FLOAT32 if bias is None else TYPES.get(bias.dtype)
        if native is None or bias_kind is None:
            return None
        y = x.new_empty((*x.shape[:-1], rows))
        if not x.is_contiguous():
            x = x.contiguous()
        if bias is not None and not bias.is_contiguous():
            bias = bias.contiguous()
        call = Call(
            tokens,
            x.data_ptr(),
            columns,
            y.data_ptr(),
            rows,
            None if bias is None else bias.data_ptr(),
            kind,
            kind,
            bias_kind,
            torch.get_num_threads(),
        )
        self.kernel(native)(self._arguments(matrix), call)
        return y

    def unpack(self, matrix: Matrix, first: int, last: int) -> Tensor:
        """By the kernels, if there are some."""
        where, values, starts, scale, _, columns = matrix
        if not values.is_cpu and self._on_gpu(values.device):
            return self.gpu.unpack(matrix, first, last)  # type: ignore[no-any-return]
        native = library() if values.is_cpu else None
        if native is None:
            whole = self.rows(where, values, starts, columns, first, last)
            return whole if scale is None else whole.float() * scale[first:last, None]
        dtype = values.dtype if scale is None else torch.float32
        out = torch.empty(last - first, columns, dtype=dtype)
        threads = torch.get_num_threads()
        self.kernel_rows(native)(self._arguments(matrix), first, last, out.data_ptr(), threads)
        return out

    def wrong(self, parts: Parts, padding: int, rows: int, columns: int) -> str:
        """Why they are no matrix."""
        return self.wrong_in(parts, padding, rows, columns)

    def _arguments(self, matrix: Matrix) -> Any:
        scale = matrix[3]
        first, second, third = self.order
        return _arguments(
            self.arguments,
            matrix[4],
            matrix[5],
            TYPES[matrix[1].dtype],
            matrix[first].data_ptr(),  # type: ignore[union-attr]
            matrix[second].data_ptr(),  # type: ignore[union-attr]
            matrix[third].data_ptr(),  # type: ignore[union-attr]
            0 if scale is None else scale.data_ptr(),
        )


@lru_cache(maxsize=1 << 14)
def _arguments(kind: type, *values: int) -> Any:
    """The structure for a matrix; it holds numbers only, so that an old one harms nobody."""
    return kind(*values)


class CompressedRows(Layout):
    """torch's own, multiplied in at least float32: a processor has no such product of 16 bits."""

    def quick(self, device: torch.device = CPU) -> bool:
        """Where there are no kernels, which are faster."""
        return device.type != "cpu" or library() is None

    def multiply(self, x: Tensor, bias: Tensor | None, matrix: Matrix) -> Tensor | None:
        """By torch's product with a sparse matrix."""
        where, values, starts, _, rows, columns = matrix
        _warned()
        kind = torch.promote_types(x.dtype, torch.float32)
        compressed = torch.sparse_csr_tensor(
            starts, where, values.to(kind), (rows, columns), check_invariants=False
        )
        tokens = x.shape[:-1].numel()
        flat = x.reshape(tokens, columns).to(kind)
        with torch.autocast(x.device.type, enabled=False):
            y = (compressed @ flat.t()).t()
        y = y if bias is None else y + bias
        return y.to(x.dtype).reshape(*x.shape[:-1], rows).contiguous()

    def unpack(self, matrix: Matrix, first: int, last: int) -> Tensor:
        """Rows of the dense matrix."""
        where, values, starts, _, _, columns = matrix
        dense = values.new_zeros(last - first, columns)
        begin, stop = int(starts[first]), int(starts[last])
        rows = torch.arange(last - first, device=values.device)
        row = rows.repeat_interleave(starts[first : last + 1].diff())
        own = integers(values[begin:stop])
        integers(dense)[row, where[begin:stop].long()] = own
        return dense

    def wrong(self, parts: Parts, padding: int, rows: int, columns: int) -> str:
        """Why they are no matrix."""
        return wrong_in_rows(parts, padding, rows, columns)


@cache
def _warned() -> None:
    """torch says once in a process that these matrices are new; nobody here can do anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.zeros(1, 1).to_sparse_csr()


BITS = Native(
    BitsArguments,
    (0, 1, 2),
    reference.bits_unpack,
    wrong_in_bits,
    lambda native: native.bits_linear,
    lambda native: native.bits_unpack,
    gpu_bits,
)
INDEX = Native(
    IndexArguments,
    (2, 0, 1),
    reference.index_unpack,
    wrong_in_index,
    lambda native: native.index_linear,
    lambda native: native.index_unpack,
)
CSR = CompressedRows()


def portion(columns: int, dtype: torch.dtype, device: torch.device = CPU) -> int:
    """How many rows are unpacked at once: whole groups, of at most `SCRATCH` bytes.

    Example:
        >>> portion(1024, torch.float32)
        2048
    """
    rows = (SCRATCH if device.type == "cpu" else GPU_SCRATCH) // max(columns * dtype.itemsize, 1)
    return max(rows // ROWS, 1) * ROWS
