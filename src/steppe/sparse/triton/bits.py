"""Products with the layout *bits* on a GPU: what chooses, prepares and starts the kernels."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from steppe.core.optional_import import optional
from steppe.sparse.checks import Matrix
from steppe.sparse.native.interface import ROWS
from steppe.sparse.reference import integers

MOST_TOKENS = 16
"""Up to so many tokens the kernel multiplies; more are multiplied by torch, unpacked."""
CHUNKS = {1: 16, 2: 16, 4: 8, 8: 4, 16: 4}
"""Chunks that a program holds at once, by tokens: so many sums fit into registers."""
UNPACK_CHUNKS = 16
CAPABILITY = (8, 0)
"""The oldest GPU with bfloat16."""


@cache
def kernels() -> Any:
    """The module of kernels; None where triton is not installed, or does not work, which is said.

    It comes with torch's builds for NVIDIA's GPUs on Linux.
    """
    if optional("triton", instead="torch multiplies, weights unpacked") is None:
        return None
    return importlib.import_module("steppe.sparse.triton.kernels")


@cache
def works_on(device: torch.device) -> bool:
    """Whether the kernels run on a device.

    Example:
        >>> works_on(torch.device("cpu"))
        False
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= CAPABILITY and kernels() is not None


def padded_tokens(tokens: int) -> int:
    """The power of two that a kernel is compiled for.

    Example:
        >>> [padded_tokens(n) for n in (1, 2, 3, 16)]
        [1, 2, 4, 16]
    """
    return 1 << max(tokens - 1, 0).bit_length()


def linear(
    x: Tensor, bias: Tensor | None, matrix: Matrix, chunks: int | None = None, warps: int = 4
) -> Tensor:
    """y = x W^T + b of 1 to `MOST_TOKENS` tokens, summed in float32 and rounded once.

    Args:
        x: ``[..., columns]``, float32, bfloat16 or float16.
        bias: ``[rows]`` or None.
        matrix: in the layout *bits*, on x's device.
        chunks: what a program holds at once, a power of two; as in `CHUNKS` if None.
        warps: of a program.
    """
    where, values, starts, scale, rows, columns = matrix
    tokens = x.shape[:-1].numel()
    assert x.shape[-1] == columns, x.shape
    assert tokens <= MOST_TOKENS, tokens
    y = x.new_empty((*x.shape[:-1], rows))
    if not y.numel():
        return y
    x = x.contiguous()
    bias = None if bias is None else bias.contiguous()
    compiled_for = padded_tokens(tokens)
    with torch.cuda.device_of(x):
        kernels().bits_linear[(len(where),)](
            x,
            where,
            values,
            starts,
            values if scale is None else scale,
            x if bias is None else bias,
            y,
            tokens,
            rows,
            columns,
            where.shape[1],
            TOKENS=compiled_for,
            CHUNKS=chunks or CHUNKS[compiled_for],
            SCALED=scale is not None,
            BIASED=bias is not None,
            num_warps=warps,
        )
    return y


def unpack(matrix: Matrix, first: int, last: int) -> Tensor:
    """Rows ``first`` to ``last`` of the dense matrix in the values' dtype; int8 becomes float32."""
    where, values, starts, scale, _, columns = matrix
    kind = values.dtype if scale is None else torch.float32
    out = torch.empty(last - first, columns, dtype=kind, device=values.device)
    if not out.numel():
        return out
    groups = -(-last // ROWS) - first // ROWS
    with torch.cuda.device_of(values):
        kernels().bits_unpack[(groups,)](
            where,
            integers(values),
            starts,
            values if scale is None else scale,
            integers(out) if scale is None else out,
            first,
            last,
            columns,
            where.shape[1],
            CHUNKS=UNPACK_CHUNKS,
            SCALED=scale is not None,
        )
    return out
