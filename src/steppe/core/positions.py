"""Sums over rows of logits, of which only a few are in float32 at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

AT_ONCE = {"cpu": 1 << 22, "gpu": 1 << 26}
"""Logits whose float32 copies are held at once while a loss is differentiated."""


def sum_over(rows: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The sum of what each row gives, computed some rows at a time.

    Where there are more logits than fit at once, what is made of a part is computed anew in the
    backward pass instead of being kept, so that beside the logits and their gradient only the
    copies of one part are in memory. The last bits may differ from those of one sum.

    Args:
        rows: parts of the tensors ``[n, ...]`` -> one number for each of the n rows.
        tensors: alike in their first dimension; the first one is the largest.

    Returns:
        A scalar, with a gradient where the tensors have one.

    Example:
        >>> sum_over(lambda x: x.square().sum(-1), torch.ones(3, 2))
        tensor(6.)
    """
    first = tensors[0]
    most = AT_ONCE["cpu" if first.device.type == "cpu" else "gpu"]
    if first.numel() <= most:
        return rows(*tensors).sum()
    # split, whose gradients are put together once; each slice would have one of full size
    size = max(most // max(first[0].numel(), 1), 1)
    total = torch.zeros((), device=first.device)
    for part in zip(*(t.split(size) for t in tensors), strict=True):
        total = total + checkpoint(
            lambda *p: rows(*p).sum(), *part, use_reentrant=False, preserve_rng_state=False
        )
    return total
