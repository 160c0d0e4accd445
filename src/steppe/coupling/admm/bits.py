"""Masks as bits, eight to a byte, packed and unpacked where they lie."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# times eight bytes of 0 or 1, read as one number, it gathers their bits in the highest byte
_GATHER = 0x0102040810204080


def packed(mask: Tensor) -> Tensor:
    """Booleans of any shape -> ``[ceil(n / 8)]`` bytes.

    Example:
        >>> packed(torch.tensor([True, False, True]))
        tensor([5], dtype=torch.uint8)
    """
    flat = torch.nn.functional.pad(mask.reshape(-1), (0, -mask.numel() % 8))
    return (flat.view(torch.int64) * _GATHER >> 56).to(torch.uint8)


def unpacked(bits: Tensor, shape: torch.Size) -> Tensor:
    """The booleans that `packed` was given: a look-up of eight at a time.

    Args:
        bits: what `packed` returned.
        shape: of the mask.

    Example:
        >>> unpacked(torch.tensor([5], dtype=torch.uint8), torch.Size([3]))
        tensor([ True, False,  True])
    """
    eights = _table(bits.device).index_select(0, bits.int())
    return eights.view(torch.bool)[: shape.numel()].view(shape)


@functools.cache
def _table(device: torch.device) -> Tensor:
    """``[256]``: eight booleans, read as one number, for each byte."""
    each = torch.arange(256, dtype=torch.uint8).unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)
    return (each & 1).view(torch.int64).squeeze(1).to(device)
