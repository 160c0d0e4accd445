"""Masks: applied, counted, packed into bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError


@torch.no_grad()
def apply_masks(weights: dict[str, Tensor], masks: dict[str, Tensor]) -> None:
    """w <- m * w in place, by name; the zeros are positive zeros whatever the weight was.

    Args:
        weights: name -> tensor.
        masks: name -> booleans of the same shape, True = kept.

    Example:
        >>> w = {"a": torch.tensor([1.0, -2.0])}
        >>> apply_masks(w, {"a": torch.tensor([True, False])}); w["a"]
        tensor([1., 0.])
    """
    for name, weight in weights.items():
        weight.masked_fill_(~masks[name], 0)


def count_zeros(weights: dict[str, Tensor]) -> int:
    """How many entries are exactly zero."""
    return sum(w.numel() - int(torch.count_nonzero(w)) for w in weights.values())


def pack(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Booleans -> bits, eight to a byte, with the shapes beside them.

    Example:
        >>> m = {"a": torch.tensor([[True, False, True]])}
        >>> bool((unpack(pack(m))["a"] == m["a"]).all())
        True
    """
    packed = {}
    for name, mask in masks.items():
        bits = np.packbits(mask.detach().cpu().numpy().reshape(-1))
        packed[f"{name}.bits"] = torch.from_numpy(bits)
        packed[f"{name}.shape"] = torch.tensor(mask.shape, dtype=torch.int64)
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `pack`.

    Raises:
        SteppeError: a mask is not whole.
    """
    masks = {}
    for key in packed:
        if key.endswith(".bits"):
            name = key.removesuffix(".bits")
            shape = packed[f"{name}.shape"].tolist() if f"{name}.shape" in packed else []
            entries = int(np.prod(shape)) if shape else -1
            bytes_ = packed[key].cpu().numpy()
            if bytes_.dtype != np.uint8 or bytes_.size != -(-entries // 8):
                raise SteppeError(
                    "packed masks hold eight entries in a byte, and their shapes",
                    got=f"{bytes_.size} bytes of {name} for the shape {shape or 'missing'}",
                    way_out="masks that steppe wrote, whole",
                )
            bits = np.unpackbits(bytes_, count=entries)
            masks[name] = torch.from_numpy(bits.astype(bool)).reshape(shape)
    return masks
