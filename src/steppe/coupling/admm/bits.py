"""Masks as bits, eight to a byte, packed and applied where they lie."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# times eight bytes of 0 or 1, read as one number, it gathers their bits in the highest byte
_GATHER = 0x0102040810204080
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def packed(mask: Tensor) -> Tensor:
    """Booleans of any shape -> ``[ceil(n / 8)]`` bytes.

    Example:
        >>> packed(torch.tensor([True, False, True]))
        tensor([5], dtype=torch.uint8)
    """
    flat = torch.nn.functional.pad(mask.reshape(-1), (0, -mask.numel() % 8))
    return (flat.view(torch.int64) * _GATHER >> 56).to(torch.uint8)


def split(value: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """What a mask keeps of a tensor and what it leaves, zeros elsewhere; both new.

    Args:
        value: any shape, 16 to 64 bits an entry.
        bits: of the mask, from `packed`.

    Example:
        >>> split(torch.tensor([1.0, -2.0, 3.0]), torch.tensor([5], dtype=torch.uint8))
        (tensor([1., 0., 3.]), tensor([ 0., -2.,  0.]))
    """
    # as integers: torch.where takes ten times as long on a processor
    whole = value.view(_INTEGERS[value.element_size()])
    table = _table(bits.device, whole.dtype)
    ones = table.index_select(0, bits.int()).view(-1)[: value.numel()].view(value.shape)
    kept = ones.bitwise_and_(whole)
    return kept.view(value.dtype), whole.bitwise_xor(kept).view(value.dtype)


def united(kept: Tensor, left: Tensor) -> Tensor:
    """The tensor whose `split` into the two it was.

    Example:
        >>> united(torch.tensor([1.0, 0.0]), torch.tensor([0.0, -2.0]))
        tensor([ 1., -2.])
    """
    kind = _INTEGERS[kept.element_size()]
    return kept.view(kind).bitwise_or(left.view(kind)).view(kept.dtype)


@functools.cache
def _table(device: torch.device, dtype: torch.dtype) -> Tensor:
    """``[256, 8]``: for each byte eight integers, all ones in binary where its bit is set."""
    each = torch.arange(256).unsqueeze(1) >> torch.arange(8)
    return (-(each & 1)).to(device, dtype)
